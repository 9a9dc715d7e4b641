"""Delivery: alerts reach people, at least once, and what became of each is in the log.

An alert is what an AlertFiring or AlertResolved record says. The Deliverer (`deliverer`) gives it to every handler that it is addressed
to; each handler has a thread and an Outbox (`outbox`), a machine without clock, thread or socket that decides what is sent when. What is
written about it is AlertNotified or AlertSuppressed, exactly one for an alert and a handler in the life of a process, and these are all the
state there is: whoever reads them back goes on where another stopped. What a message says is a Notice (`notices`); how it travels is a
handler's (`handlers`). Standard library only: this runs in the observer, where a web framework may be missing.
"""
