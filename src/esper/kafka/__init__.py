"""The log on Kafka: a cluster, its topics and clients, transactions, delivery of alerts. `copying` has the bridge and the mirror,
`ledgers` what workers derive.

Nothing here decides anything: the records are the directory's, the folds are `esper.folds`. It knows aiokafka, and nothing of Faust.
"""
