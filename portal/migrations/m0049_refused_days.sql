-- The days on which messages of an account were refused for want of credits, or stopped for the blacklist: few of all.

CREATE INDEX daily_totals_refused ON daily_totals (day, account_id, refused, stopped) WHERE refused > 0 OR stopped > 0;
