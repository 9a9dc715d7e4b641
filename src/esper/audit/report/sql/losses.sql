-- The losses of epochs, the last one of each of at most 500 equal shares.
WITH known AS (SELECT epoch, moment, train_loss, validation_loss, epoch * 500 // (max(epoch) OVER () + 1) AS share FROM epochs WHERE run = $run)
SELECT epoch, train_loss, validation_loss FROM known QUALIFY row_number() OVER (PARTITION BY share ORDER BY moment DESC) = 1 ORDER BY moment
