"""How messages travel: to a line of text, a webhook, Alertmanager, a mail server. Each makes one attempt and says what came of it."""
