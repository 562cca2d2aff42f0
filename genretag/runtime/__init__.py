"""The process and its Ray session: cluster checks, progress, logs, telemetry and stopping."""
