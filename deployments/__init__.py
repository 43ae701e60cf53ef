"""What runs the audit: settings, and the demo's Hub."""
