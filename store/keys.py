"""Every key in Redis: one function each, with its type, its life and who writes it.

Permanent (small, and bounded by the number of models and batches kept): `lanes`, `batches`, `live`, `answer_secret`.
All keys of one batch share the hash tag {batch id}. `arq:` keys are arq's own format.

Permanent, too, in the books of the gate: `books`, `policy`, `weights`, `pauses`, `suspects`, `audit`, `usage`, `alerts`
and `alert_acks` (all four capped), `alert_notes`, `user_key` and the budgets that have no window. All keys of the gate
share the hash tag {gate:upstream}, so that one script may see them.

A lane belongs to an upstream, so that lines meant for a simulator never reach a worker that pays, and back.
"""

from hashlib import blake2b

PREFIX = "bm:"


def upstream_tag(upstream: str) -> str:
    """Return the short name of an upstream inside keys."""
    return blake2b(upstream.encode(), digest_size=4).hexdigest()


def lanes(upstream: str) -> str:
    """Set of model ids that ever had a lane. Permanent. Written at enqueue."""
    return f"{PREFIX}lanes:{upstream_tag(upstream)}"


def lane(upstream: str, model: str) -> str:
    """Sorted set, arq's queue: shard reference -> score. Gone when empty. Written at enqueue, claim, give back."""
    return f"{PREFIX}lane:{upstream_tag(upstream)}:{model}"


def leases(upstream: str, model: str) -> str:
    """Sorted set: reference of a claimed shard -> lease end (ms). Gone when empty. Written by claim, renew, finish."""
    return f"{PREFIX}leases:{upstream_tag(upstream)}:{model}"


def runs(upstream: str, model: str) -> str:
    """Hash: reference of a claimed shard -> id of the run that holds it. Gone when empty. As `leases`."""
    return f"{PREFIX}runs:{upstream_tag(upstream)}:{model}"


def flows(upstream: str, model: str) -> str:
    """Sorted set: batch with shards in the lane -> its tag, within its project's span of scores. Gone when empty.
    Written by claim, give back and park.
    """
    return f"{PREFIX}flows:{upstream_tag(upstream)}:{model}"


def flow_facts(upstream: str, model: str) -> str:
    """Hash: batch -> `slot|stride|priority|project`; batch and `#` -> how many of its shards are queued or leased.
    Gone when empty. Written at enqueue and when a shard is finished.
    """
    return f"{PREFIX}flow_facts:{upstream_tag(upstream)}:{model}"


def projects(upstream: str, model: str) -> str:
    """Sorted set: project -> its tag. Gone when empty, with `flow_facts` at the latest. By claim and give back."""
    return f"{PREFIX}projects:{upstream_tag(upstream)}:{model}"


def turns(upstream: str, model: str) -> str:
    """Hash: `clock` of the lane, last `slots` and `projects` given out, `:` and a project -> `number|clock`.
    Gone when empty, which is when `flow_facts` is. Written by claim and at enqueue.
    """
    return f"{PREFIX}turns:{upstream_tag(upstream)}:{model}"


def parked(upstream: str, model: str) -> str:
    """Sorted set: batch without a flow -> when it gets one at a claim (ms; 0: it has just come). Gone when empty.
    Written at enqueue, by give back and by park.
    """
    return f"{PREFIX}parked:{upstream_tag(upstream)}:{model}"


def wake(upstream: str) -> str:
    """Channel: a model id (its lane has work), or `!` and a batch that was cancelled, or a batch and `|expired`."""
    return f"{PREFIX}wake:{upstream_tag(upstream)}"


def workers(upstream: str) -> str:
    """Sorted set: worker id -> last heartbeat (ms). Expires a day after the last heartbeat. Written by heartbeats."""
    return f"{PREFIX}workers:{upstream_tag(upstream)}"


def pulse(upstream: str) -> str:
    """Hash: `beat` (ms, newest heartbeat of the fleet) and `grace` (ms, no lease is taken away before). A day."""
    return f"{PREFIX}pulse:{upstream_tag(upstream)}"


def blocked(upstream: str, scope: str) -> str:
    """String: why lines of the scope wait. Expires when the wait does. Written by workers, and by gateways of a
    batch whose output files can't be written.

    A scope is a model id, a batch id, `:free`, `account` (a limit), `refused` (the account itself) or `alarm`. The
    value is the kind of reason, `|`, and the reason in words.
    """
    return f"{PREFIX}blocked:{upstream_tag(upstream)}:{scope}"


def catalogue(upstream: str) -> str:
    """String: when the models of an upstream were read, and they (MessagePack). Expires after `catalogue.keep`.
    Written by who refreshes it: a worker, or who hands lines over.
    """
    return f"{PREFIX}catalogue:{upstream_tag(upstream)}"


def catalogue_turn(upstream: str) -> str:
    """String: who refreshes the catalogue now. Expires when nobody can be at it any more. As `catalogue`."""
    return f"{PREFIX}catalogue_turn:{upstream_tag(upstream)}"


def catalogue_failure(upstream: str) -> str:
    """String: when and why the catalogue could not be refreshed (MessagePack). Expires with `catalogue`; gone when it
    could. As `catalogue`.
    """
    return f"{PREFIX}catalogue_failure:{upstream_tag(upstream)}"


def expiry_warned(upstream: str) -> str:
    """String: somebody warned of models in use that are to be removed. A day. Written by workers."""
    return f"{PREFIX}expiry_warned:{upstream_tag(upstream)}"


def endpoints(upstream: str, model: str) -> str:
    """String: when the endpoints of a model were read, and they (MessagePack). Expires after `catalogue.keep`.
    Written by who asked for them.
    """
    return f"{PREFIX}endpoints:{upstream_tag(upstream)}:{model}"


def account(upstream: str) -> str:
    """String: what the key may spend, as of the last look (JSON; nothing of the key). Expires in a day. Workers."""
    return f"{PREFIX}account:{upstream_tag(upstream)}"


def account_turn(upstream: str) -> str:
    """String: the worker that looked at the key last. Expires when the next look is due. Written by workers; gone when
    a command asks for a new look.
    """
    return f"{PREFIX}account_turn:{upstream_tag(upstream)}"


def maintenance(upstream: str) -> str:
    """String: the worker that does the fleet's upkeep now. Expires after a few heartbeats. Workers."""
    return f"{PREFIX}maintenance:{upstream_tag(upstream)}"


def traffic(upstream: str, model: str, size: int, slot: int) -> str:
    """Hash: `kind|provider` -> count of a model's calls in a slot of `size` seconds, and `at`. Expires soon after the
    windows that need it (two minutes to 26 hours). Written by workers.

    `slot` is the time divided by the size. Kinds: `c` calls, `f` failures, `r` refused by a limit, `t` tokens, `g` the
    ms in which they came, `l` and `s` with a bucket: latency, and time until the answer starts.
    """
    return f"{PREFIX}{{traffic:{upstream_tag(upstream)}}}:{size}:{slot}:{model}"


def models_seen(upstream: str) -> str:
    """Sorted set: model -> when the fleet last sent to it, or had it as a candidate (ms). A day. Written by workers."""
    return f"{PREFIX}{{traffic:{upstream_tag(upstream)}}}:seen"


def endpoints_health(upstream: str, model: str) -> str:
    """String: what a model's endpoints said of themselves, and when (MessagePack). Expires when it is too old to go by.
    Written by the worker that does the upkeep.
    """
    return f"{PREFIX}endpoints_health:{upstream_tag(upstream)}:{model}"


def answer_secret(upstream: str) -> str:
    """String: random bytes by which lines are named in the keys of answers. Permanent. Written by the first worker."""
    return f"{_answers(upstream)}secret"


def answer(upstream: str, name: str) -> str:
    """String: an answer that lines like it may have, too (MessagePack). Expires after `cache.ttl`. Written by workers.

    `name` is a keyed hash of all that makes lines alike; nothing of them can be read in it.
    """
    return f"{_answers(upstream)}answer:{name}"


def answer_lead(upstream: str, name: str) -> str:
    """String: hold of the line that is sent now, while others like it wait. Expires with a lease. Written by workers;
    gone when the line landed.
    """
    return f"{_answers(upstream)}lead:{name}"


def project_answers(upstream: str, project: str) -> str:
    """Sorted set: batch and name of each answer that a project's lines brought -> when it expires (ms). Expires with
    the last of them. Written by workers.
    """
    return f"{_answers(upstream)}project:{project}"


def batches() -> str:
    """Sorted set: batch id -> created_at. Permanent; maintenance drops what has expired. Written at release."""
    return f"{PREFIX}batches"


def live() -> str:
    """Set of batch ids that are not terminal. Permanent. Written at release and by the last record."""
    return f"{PREFIX}live"


def content(digest: str) -> str:
    """String: id of the batch that has this content. Retention, twice: it outlives the batch. Written at release."""
    return f"{PREFIX}content:{digest}"


def batch(batch_id: str) -> str:
    """Hash: a batch's facts and counters. Staging time, then retention. Written at enqueue, by records and ends."""
    return f"{PREFIX}{{{batch_id}}}:batch"


def done(batch_id: str) -> str:
    """Bitmap over line indexes: has a terminal result. Retention. Written by records only."""
    return f"{PREFIX}{{{batch_id}}}:done"


def results(batch_id: str) -> str:
    """Stream of results, an entry a line, then one `end`. Retention. Written by records only."""
    return f"{PREFIX}{{{batch_id}}}:results"


def air(batch_id: str) -> str:
    """Hash: worker id -> lines of the batch that it has in the air. Retention. Written with records."""
    return f"{PREFIX}{{{batch_id}}}:air"


def tried(batch_id: str) -> str:
    """Hash: line index -> what was tried of a line given back. Expires in a month. Written by early ends."""
    return f"{PREFIX}{{{batch_id}}}:tried"


def live_lines(batch_id: str) -> str:
    """Hash: custom id -> index of a line with live tokens. Staging time, then retention. Written at enqueue."""
    return f"{PREFIX}{{{batch_id}}}:live_lines"


def live_tokens(batch_id: str, index: int) -> str:
    """Stream: what the upstream says of a line while it says it. Written by the worker that has it in the air.

    Expires some time after the end (`[stream] keep`); what nobody ends, as long after its call must be over.
    """
    return f"{PREFIX}{{{batch_id}}}:tokens:{index}"


def open_shards(batch_id: str) -> str:
    """Hash: reference of an unfinished shard -> the shard (MessagePack). Staging time, then retention. As `shard`."""
    return f"{PREFIX}{{{batch_id}}}:open"


def shard(reference: str) -> str:
    """String: the lines of a shard (MessagePack). Staging time, then retention; gone when finished."""
    return f"{PREFIX}{{{batch_of(reference)}}}:shard:{reference}"


def job(reference: str) -> str:
    """String: arq's job. Retention; gone when finished."""
    return f"arq:job:{reference}"


def tries(reference: str) -> str:
    """String: arq's count of runs. About a day; gone when finished. Written by arq."""
    return f"arq:retry:{reference}"


def reference(batch_id: str, number: int, lines: int) -> str:
    """Return a shard's reference, which is its arq job id: it tells the batch and how many lines to expect."""
    return f"{batch_id}.{number}.{lines}"


def batch_of(shard_reference: str) -> str:
    """Return the batch of a shard's reference."""
    return shard_reference.split(".", 1)[0]


def books(upstream: str) -> str:
    """Hash: policy `version`, `epoch`, `alarm` and counts of the gate. Permanent. Written by the gate and operators."""
    return f"{_gate(upstream)}books"


def policy(upstream: str) -> str:
    """String: limits, budgets, prices and weights in force (JSON). Permanent. Written when a config is applied."""
    return f"{_gate(upstream)}policy"


def weights(upstream: str) -> str:
    """Hash: project -> weight. Permanent. Written with `policy`."""
    return f"{_gate(upstream)}weights"


def budget(upstream: str, name: str, window: str) -> str:
    """Hash: `spent`, `held`, `suspect`, `debt` (nano-dollars) of one budget in one window. Permanent for the window
    "total", else kept as long as late bookings may come: forty days after its end. Written by the gate.
    """
    return f"{_gate(upstream)}budget:{name}:{window}"


def batch_budget(upstream: str, batch_id: str) -> str:
    """Hash: as `budget`, and `limit`: the cap of one batch. Retention. Written at enqueue and by the gate."""
    return f"{_gate(upstream)}budget:{batch_id}"


def limit(upstream: str, name: str, scope: str) -> str:
    """Hash: the buckets of one limit; scope is a model, or `*` when all share it. A day after use. By the gate."""
    return f"{_gate(upstream)}limit:{name}:{scope}"


def model(upstream: str, name: str) -> str:
    """Hash: a model's breaker, its adaptive share and what is in the air. Written by the gate and operators.

    A day after use; one that an operator tripped (`tripped`), until it is reset.
    """
    return f"{_gate(upstream)}model:{name}"


def pauses(upstream: str) -> str:
    """Hash: scope -> until (ms) and why nothing of it is sent. Permanent. Written by workers and operators."""
    return f"{_gate(upstream)}pauses"


def holds(upstream: str, owner: str) -> str:
    """Hash: what a worker holds of budgets and limits. Permanent while it is in `owners`, then a day. By the gate."""
    return f"{_gate(upstream)}holds:{owner}"


def owners(upstream: str) -> str:
    """Sorted set: worker with holds -> lease end (ms). Gone when empty. Written by the gate and heartbeats."""
    return f"{_gate(upstream)}owners"


def suspects(upstream: str) -> str:
    """Hash: hold id -> money whose fate is unknown, and its usage record. Permanent, until settled, reconciled or
    released. By the gate.
    """
    return f"{_gate(upstream)}suspects"


def closed(upstream: str) -> str:
    """Hash: hold id -> what a suspect was closed with (`spent:debt`), and a line with its usage record, if it has one.
    Expires in a month. By close and release.
    """
    return f"{_gate(upstream)}closed"


def usage(upstream: str) -> str:
    """Stream of usage records: chunks of those that were settled together, and single ones that correct others.
    Permanent; maintenance keeps it to `spend.keep_records` and `spend.keep_days`. Written where money is booked.

    Fields: `at` (ms), `n` (records in it), and `m` (MessagePack array of records) or `b` (JSON of one record), `c` its
    cost and `s` its source.
    """
    return f"{_gate(upstream)}usage"


def usage_copy(upstream: str, token: str) -> str:
    """Stream: `usage` without what is to be removed, until it takes its place. Expires in ten minutes. By a purge."""
    return f"{_gate(upstream)}usage_copy:{token}"


def usage_turn(upstream: str) -> str:
    """String: who rewrites `usage` now. Expires in a minute. Written by a purge."""
    return f"{_gate(upstream)}usage_turn"


def rollup(upstream: str, day: str) -> str:
    """Hash: JSON of a group (`spend.ledger.Group`) -> eight sums of its calls on one UTC day (YYYY-MM-DD). Expires in
    ten years; maintenance drops it after `spend.rollup_days`. Written where money is booked.
    """
    return f"{_gate(upstream)}sums:{day}"


def batch_rollup(upstream: str, day: str) -> str:
    """Hash: the same by project and batch, apart, for there may be thousands that no other report has to read. Expires
    and is dropped like `rollup`, and written in the same step.
    """
    return f"{_gate(upstream)}batch_sums:{day}"


def user_key(upstream: str) -> str:
    """String: a random key, under which users of requests are hashed in usage records. Permanent. By workers."""
    return f"{_gate(upstream)}user_key"


def audit(upstream: str) -> str:
    """Stream: what operators did. Permanent, capped. Written by the commands."""
    return f"{_gate(upstream)}audit"


def alerts(upstream: str) -> str:
    """Stream: an alert (JSON) an entry, whose id is the alert's. Permanent, capped. Written by workers."""
    return f"{_gate(upstream)}alerts"


def alert_mark(upstream: str, digest: str) -> str:
    """String: an alert of that identity was raised. Expires a day after its period; in 400 days when that has no end
    and it does not hold any more. Written by workers.
    """
    return f"{_gate(upstream)}alert_mark:{digest}"


def alert_acks(upstream: str) -> str:
    """Hash: id of an alert -> who acknowledged it, and when (JSON). Permanent, with `alerts`. By the commands."""
    return f"{_gate(upstream)}alert_acks"


def alert_notes(upstream: str) -> str:
    """Hash: `bound_breaches` that were alerted of; `open|` and a model -> since when its breaker is not closed (ms).
    Permanent, and small. Written by workers.
    """
    return f"{_gate(upstream)}alert_notes"


def budget_refused(upstream: str, name: str) -> str:
    """String: work waits for room in the budget. Expires in seconds; gone when it is raised. Written by workers."""
    return f"{_gate(upstream)}budget_refused:{name}"


def deliveries(upstream: str) -> str:
    """Sorted set: name of a webhook, a blank, and id of an alert -> when it is sent next (ms). Gone when empty.
    Written by workers.
    """
    return f"{_gate(upstream)}deliveries"


def delivery_failures(upstream: str) -> str:
    """Hash: as `deliveries` -> tries that failed. Gone when empty. Written by workers."""
    return f"{_gate(upstream)}delivery_failures"


def _gate(upstream: str) -> str:
    return f"{PREFIX}{{gate:{upstream_tag(upstream)}}}:"


def _answers(upstream: str) -> str:
    return f"{PREFIX}{{answers:{upstream_tag(upstream)}}}:"


def counted(upstream: str) -> str:
    """Hash: counters of the whole fleet for Prometheus, see `metrics.py`. Expires a month after the last heartbeat that
    had anything to add. Written with heartbeats.
    """
    return f"{PREFIX}counted:{upstream_tag(upstream)}"
