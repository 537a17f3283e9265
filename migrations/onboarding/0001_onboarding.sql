-- The reactor learns how its own commands ended also when the worker's answer was lost: it may read the outcomes of the system's commands.
CREATE POLICY reactor_reads ON commands FOR SELECT TO chancery_onboarding USING (actor = 'system');
GRANT SELECT (id, actor, outcome) ON commands TO chancery_onboarding;
