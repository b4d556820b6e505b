-- Credits are sold where an operator has said so: the packs that came with each installation go.
--
-- They stay where they have been used: somebody has ordered, an account buys one automatically, or they were changed.

DELETE FROM packs WHERE NOT EXISTS (SELECT 1 FROM orders)
    AND NOT EXISTS (SELECT 1 FROM accounts WHERE recredit_pack IS NOT NULL)
    AND (SELECT group_concat(credits || ' ' || price || ' ' || currency) FROM (SELECT * FROM packs ORDER BY credits)) =
        '100000 700 EUR,200000 1360 EUR,250000 1650 EUR,500000 3150 EUR,'
        || '1000000 6000 EUR,5000000 28500 EUR,10000000 54000 EUR';
