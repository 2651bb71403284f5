"""What the pytest plugin is made of: which cases there are, what they need, what they measure."""
