"""Fine-tuning, the same for every framework: settings, plan, views, checkpoints and loop."""
