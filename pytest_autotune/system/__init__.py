"""Files, locks, processes and secrets; nothing of tuning."""
