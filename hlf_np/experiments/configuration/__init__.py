"""What a run consists of: its settings, and the trainings, spaces, attacks, measurements and data that it may use."""
