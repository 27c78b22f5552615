"""Query results as text, CSV and JSON; attacker-controlled text is made safe to show here and nowhere else."""
