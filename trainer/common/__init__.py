"""What every floor above may use: errors, formats, durable files, reading with limits, locks."""
