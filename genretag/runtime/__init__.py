"""What a running command needs: a Ray session, cluster checks, progress, logs, telemetry and a clean stop."""
