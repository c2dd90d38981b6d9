"""The arena: a model organism of the method, small enough for two CPU cores.

Twelve made-up operations, each with a hidden rule; a tiny Qwen3 that follows guidance in its context nearly always and,
left alone, knows a quarter of the rules; problems in three levels. Everything else (prompts, chat template, boxed
answers, verifier, bank, retrieval, trainer) is what a Qwen3-1.7B runs through.
"""
