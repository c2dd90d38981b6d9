"""Mining: attempts at problems in, skill-mistake pairs with evidence out. Here without a model; `model/` asks one."""
