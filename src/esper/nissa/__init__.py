"""What people and their tools see of a log: alert delivery, metrics, the JSON API. It shows and delivers; folds and rules decide."""
