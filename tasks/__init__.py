"""HOW one step of an audit is done."""
