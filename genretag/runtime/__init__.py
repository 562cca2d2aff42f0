"""Support for a running command: a Ray session, cluster checks, progress, logs, telemetry and a clean stop."""
