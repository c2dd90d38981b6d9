"""Mining: past rollouts in, skill-mistake pairs with evidence out."""
