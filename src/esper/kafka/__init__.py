"""The log on Kafka: its topics, the bridge that ships a directory's runs, and the ledgers that derive from them.

Nothing here decides anything: the records are the directory's, the folds are `esper.folds`. It knows aiokafka, and nothing of Faust.
"""
