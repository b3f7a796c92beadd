"""The commands, one file each: its flags and what it does. What a command needs is imported when it runs."""
