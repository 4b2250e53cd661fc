"""What passes, frontends and backends are written with, and how they are found."""
