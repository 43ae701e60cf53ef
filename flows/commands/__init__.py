"""The subcommands of `normaudit`, by what they work on: models, nights, the store."""
