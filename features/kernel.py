"""The one implementation of the features: stream, training set and backfill all run `advance`.

Takes transactions in log order with the rows of `State` that are theirs, gives each its vector and
lets the state know it; `learn` lets it know outcomes. Time rules: a record is visible from
max(own time, log's running maximum - lateness) on. A transaction at t sees its customer's earlier
transactions of the log with event time <= t, and itself; at its terminal, transactions visible by
t - delay, and outcomes of these visible by t - skew. A vector is provisional where a log may still
bring something that it should have seen. All sums are integers, so their order cannot matter; every
quotient is one float64 division, rounded once to float32. `plain.py` says the same readably.
Sequential by nature: a row sees the rows before it. No clock, no random source, nothing raises.
"""

import numpy as np

from features.compiled import compiled, inlined, prefetch
from features.remember import insert, remember, remember_at, remember_outcome
from features.state import Flags, Float32s, Int8s, Int32s, Int64s, State

# Numbers, since a cached loop does not notice when a constant of another file changes; tests
# compare them with the contract and with the state's layout.
DAY, HOUR = 86_400_000_000, 3_600_000_000
DELAY, LONGEST, MEDIAN_LAST = 7 * DAY, 180 * DAY, 127
CUSTOMER_TILE, SHARE_KEEP = 3 * DAY, 45 * DAY
WINDOWS = (1, 3, 7, 14, 21, 30)
RISK_WINDOWS, RATE_WINDOWS = (0, 2, 5), (1, 3, 4)
NIGHT_HOURS, EPOCH_WEEKDAY, SATURDAY = 7, 3, 5
TRANSACTIONS, LABELS = 0, 1
NOWHERE = -(2**62)
# Rows ahead for which memory is fetched; numbers in a cache line; events of a busy month.
AHEAD, HEADS_AHEAD, LINE, MONTH_EVENTS = 6, 14, 8, 80


@compiled
def advance(
    state: State,
    customers: Int32s,
    shares: Int32s,
    partition: Int32s,
    event_time_us: Int64s,
    amount_minor: Int64s,
    out: Float32s,
    provisional: Flags,
) -> None:
    """Vectors of n transactions in log order into `out` float32 (n, WIDTH), then remember them.

    `customers` int32 (n,) and `shares` int32 (n, partitions) are rows of the state: the customer,
    and the terminal's share of every partition. `partition` int32 (n,) is the one that the
    transaction came by. `provisional` bool (n,) is written. Nothing is checked.
    """
    lateness = state.timing[0]
    for i in range(len(customers)):
        if i + HEADS_AHEAD < len(customers):
            _fetch_heads(state, customers[i + HEADS_AHEAD], shares, i + HEADS_AHEAD)
        if i + AHEAD < len(customers):
            _fetch(state, customers[i + AHEAD], shares, i + AHEAD)
        p, t, amount = partition[i], event_time_us[i], amount_minor[i]
        newest = max(state.newest_us[TRANSACTIONS, p], t)
        state.newest_us[TRANSACTIONS, p] = newest
        _own_fields(t, amount, out, i)
        _customer(state, customers[i], t, amount, out, i)
        provisional[i] = _terminal(state, shares, p, t, out, i)
        remember(state, customers[i], t, amount)
        seen = max(t, newest - lateness, state.quiet_us[TRANSACTIONS, p])
        remember_at(state, shares[i, p], t, seen)


@compiled
def advance_alone(
    state: State,
    customers: Int32s,
    shares: Int32s,
    partition: Int32s,
    event_time_us: Int64s,
    amount_minor: Int64s,
    out: Float32s,
    windows: bool,  # noqa: FBT001 -- compiled loops know no keywords
) -> None:
    """Leave the state as `advance` does, with vectors that know nothing of terminals.

    `shares` int32 (n, 1) are the rows of the terminal's shares of the transaction's own partition.
    `out` has the defaults of what is left out: terminals, and customers unless `windows`.
    """
    lateness = state.timing[0]
    for i in range(len(customers)):
        if i + HEADS_AHEAD < len(customers):
            _fetch_heads(state, customers[i + HEADS_AHEAD], shares, i + HEADS_AHEAD)
        if i + AHEAD < len(customers):
            _fetch(state, customers[i + AHEAD], shares, i + AHEAD)
        p, t, amount = partition[i], event_time_us[i], amount_minor[i]
        newest = max(state.newest_us[TRANSACTIONS, p], t)
        state.newest_us[TRANSACTIONS, p] = newest
        _own_fields(t, amount, out, i)
        if windows:
            _customer(state, customers[i], t, amount, out, i)
        remember(state, customers[i], t, amount)
        seen = max(t, newest - lateness, state.quiet_us[TRANSACTIONS, p])
        remember_at(state, shares[i, 0], t, seen)


@compiled
def learn(
    state: State,
    shares: Int32s,
    partition: Int32s,
    event_time_us: Int64s,
    known_at_us: Int64s,
    tag: Int64s,
    fraud: Int8s,
) -> None:
    """Let the state know n outcomes in log order.

    `shares` int32 (n,) are the rows of the terminals' shares of `partition` int32 (n,); `tag`
    int64 (n,) tells transactions of one instant apart; `fraud` int8 1 or 0.
    """
    for i in range(len(shares)):
        p = partition[i]
        newest = max(state.newest_us[LABELS, p], known_at_us[i])
        state.newest_us[LABELS, p] = newest
        seen = max(known_at_us[i], newest - state.timing[0], state.quiet_us[LABELS, p])
        remember_outcome(state, shares[i], event_time_us[i], seen, tag[i], fraud[i])


@inlined
def _fetch_heads(s: State, customer: int, shares: Int32s, i: int) -> None:
    """Have brought into the cache what says where in its rows a transaction's events lie."""
    c = np.int64(customer)
    prefetch(s.c_head, c)
    prefetch(s.c_count, c)
    prefetch(s.c_tiles, c)
    for q in range(0, shares.shape[1], 2 * LINE):  # they lie side by side
        r = np.int64(shares[i, q])
        prefetch(s.s_head, r)
        prefetch(s.s_count, r)
        prefetch(s.s_tiles, r)
        prefetch(s.s_late, 2 * r)
        prefetch(s.f_count, r)
        prefetch(s.f_tiles, r)
        prefetch(s.mark_us, 2 * r)


@inlined
def _fetch(s: State, c: int, shares: Int32s, i: int) -> None:
    """Have what a row will need brought into the cache: the wait for memory was half the time."""
    n: int = s.c_count[c]
    end = c * np.int64(s.c_time.shape[1]) + s.c_head[c] + n
    for k in range(0, min(n, MONTH_EVENTS), LINE):
        prefetch(s.c_time, end - k)
    for k in (0, LINE, 4 * LINE):
        prefetch(s.c_sum, end - k)
        prefetch(s.c_amount, end - k)
    first = c * np.int64(s.c_sorted.shape[1])
    for k in range(0, min(n, MEDIAN_LAST), LINE):
        prefetch(s.c_sorted, first + k)
    for q in range(shares.shape[1]):
        r = shares[i, q]
        first = r * np.int64(s.s_time.shape[1]) + s.s_head[r]
        for k in range(0, s.s_count[r] + 1, LINE):
            prefetch(s.s_time, first + k)
        prefetch(s.s_seen, first + s.s_count[r])


@inlined
def _own_fields(t: int, amount: int, out: Float32s, i: int) -> None:
    hours = t // HOUR
    out[i, 0] = amount / 100.0
    out[i, 1] = (hours // 24 + EPOCH_WEEKDAY) % 7 >= SATURDAY
    out[i, 2] = hours % 24 < NIGHT_HOURS


@inlined
def _customer(s: State, c: int, t: int, amount: int, out: Float32s, i: int) -> None:
    """The six windows with this transaction, and its amount against what came before it."""
    head = s.c_head[c]
    last = head + s.c_count[c] - 1
    while last >= head and s.c_time[c, last] > t:
        last -= 1
    # Where each window begins: four binary searches side by side, which wait for memory together.
    day = week = month = first = head
    left = last + 1 - head
    while left > 1:
        half = left // 2
        day += half * (s.c_time[c, day + half - 1] <= t - DAY)
        week += half * (s.c_time[c, week + half - 1] <= t - 7 * DAY)
        month += half * (s.c_time[c, month + half - 1] <= t - 30 * DAY)
        first += half * (s.c_time[c, first + half - 1] <= t - LONGEST)
        left -= half
    if left == 1:
        day += s.c_time[c, day] <= t - DAY
        week += s.c_time[c, week] <= t - 7 * DAY
        month += s.c_time[c, month] <= t - 30 * DAY
        first += s.c_time[c, first] <= t - LONGEST
    n_1, total_1 = last - day + 1, _total(s, c, day, last)
    n_7, total_7 = last - week + 1, _total(s, c, week, last)
    n_30, total_30 = last - month + 1, _total(s, c, month, last)
    n, total = last - first + 1, _total(s, c, first, last)
    for j in range(s.c_tiles[c]):
        # What is in a tile is no younger than the oldest event of the row.
        middle = s.c_tile_day[c, j] * CUSTOMER_TILE + CUSTOMER_TILE // 2
        middle = min(middle, s.c_time[c, head])
        more, sum_ = s.c_tile_count[c, j], s.c_tile_sum[c, j]
        if s.c_tile_seen[c, j] <= t:
            within = middle > t - DAY
            n_1, total_1 = n_1 + more * within, total_1 + sum_ * within
            within = middle > t - 7 * DAY
            n_7, total_7 = n_7 + more * within, total_7 + sum_ * within
            within = middle > t - 30 * DAY
            n_30, total_30 = n_30 + more * within, total_30 + sum_ * within
            within = middle > t - LONGEST
            n, total = n + more * within, total + sum_ * within
    out[i, 3] = n_1 + 1
    out[i, 4] = (total_1 + amount) / (100.0 * (n_1 + 1))
    out[i, 5] = n_7 + 1
    out[i, 6] = (total_7 + amount) / (100.0 * (n_7 + 1))
    out[i, 7] = n_30 + 1
    out[i, 8] = (total_30 + amount) / (100.0 * (n_30 + 1))
    out[i, 15] = amount * n_30 / total_30 if total_30 > 0 else 1.0
    out[i, 16] = amount * n / total if total > 0 else 1.0
    twice = _twice_the_median(s, c, max(first, last - MEDIAN_LAST + 1), last)
    out[i, 17] = 2 * amount / twice if twice > 0 else 1.0


@inlined
def _total(s: State, c: int, first: int, last: int) -> int:
    """Sum of the amounts first..last."""
    if first > last:
        return 0
    return int(s.c_sum[c, last] - s.c_sum[c, first] + s.c_amount[c, first])


@inlined
def _twice_the_median(s: State, c: int, first: int, last: int) -> int:
    """Twice the median of the amounts first..last, so that it stays an integer; 0 of none.

    Where these are the row's last MEDIAN_LAST, they are sorted already.
    """
    n = last - first + 1
    if n <= 0:
        return 0
    end = s.c_head[c] + s.c_count[c] - 1
    if last == end and n == min(s.c_count[c], MEDIAN_LAST):
        return int(s.c_sorted[c, (n - 1) // 2] + s.c_sorted[c, n // 2])
    for j in range(n):
        insert(s.scratch, j, s.c_amount[c, first + j])
    return int(s.scratch[(n - 1) // 2] + s.scratch[n // 2])


@inlined
def _terminal(s: State, shares: Int32s, p: int, t: int, out: Float32s, i: int) -> bool:
    """The terminal's windows behind the delay, over all shares; whether they are provisional."""
    until, known = t - DELAY, t - s.timing[1]
    n, f = s.counts[0], s.counts[1]
    for w in range(len(WINDOWS)):
        n[w] = f[w] = 0
    provisional = False
    for q in range(shares.shape[1]):
        r = shares[i, q]
        _count_events(s, r, until, n)
        if s.s_tiles[r] > 0:
            provisional |= _count_tiles(s.s_tiles, s.s_tile_day, s.s_tile_count, s.s_tile_seen, r,
                                        s.s_time[r, s.s_head[r]], until, until, n
                                        ) and q != p  # fmt: skip
        if s.f_count[r] > 0:
            _count_frauds(s, r, until, known, f)
            provisional |= _count_tiles(s.f_tiles, s.f_tile_day, s.f_tile_count, s.f_tile_seen, r,
                                        s.f_time[r, 0], t, until, f)  # fmt: skip
        provisional |= _may_change(s, r, p, q, until, known)
    for w in range(1, len(WINDOWS)):
        n[w] += n[w - 1]
        f[w] += f[w - 1]
    for k in range(3):
        w = RISK_WINDOWS[k]
        out[i, 9 + 2 * k] = n[w]
        out[i, 10 + 2 * k] = f[w] / n[w] if n[w] > 0 else 0.0
        w = RATE_WINDOWS[k]
        out[i, 20 + 2 * k] = f[w]
        out[i, 21 + 2 * k] = f[w] / n[w] if n[w] > 0 else 0.0
    begun = _fraud_run(s, shares, i, until, known) if f[-1] > 0 else NOWHERE
    out[i, 18] = begun > NOWHERE
    out[i, 19] = (t - begun) / DAY if begun > NOWHERE else 0.0
    return provisional


@inlined
def _count_events(s: State, r: int, until: int, n: Int64s) -> None:
    """Add a share's visible events to the narrowest window that each is in."""
    head = s.s_head[r]
    end = head + s.s_count[r]
    if s.s_late[r, 0] <= until and s.s_late[r, 1] > until - WINDOWS[-1] * DAY:
        for k in range(head, end):
            if s.s_time[r, k] <= until and s.s_seen[r, k] <= until:
                _add(s.s_time[r, k], 1, until, n)
        return
    # How many are later than each bound: without branches, so that LLVM compares many at once.
    a = b = c = d = e = f = g = 0
    for k in range(head, end):
        at = s.s_time[r, k]
        a += at > until
        b += at > until - WINDOWS[0] * DAY
        c += at > until - WINDOWS[1] * DAY
        d += at > until - WINDOWS[2] * DAY
        e += at > until - WINDOWS[3] * DAY
        f += at > until - WINDOWS[4] * DAY
        g += at > until - WINDOWS[5] * DAY
    n[0] += b - a
    n[1] += c - b
    n[2] += d - c
    n[3] += e - d
    n[4] += f - e
    n[5] += g - f


@compiled
def _count_frauds(s: State, r: int, until: int, known: int, f: Int64s) -> None:
    for j in range(s.f_count[r]):
        at = s.f_time[r, j]
        if at <= until and s.f_seen[r, j] <= known:
            _add(at, s.f_sign[r, j], until, f)


@compiled
def _count_tiles(
    tiles: Int32s, days: Int32s, counts: Int32s, seens: Int64s, r: int, oldest: int, at: int,
    until: int, n: Int64s,
) -> bool:  # fmt: skip
    """Add the days that are visible as a whole at `at`; whether one reaches into the windows.

    What is in a tile is no younger than `oldest`, the row's oldest event.
    """
    found = False
    for j in range(tiles[r]):
        begin = days[r, j] * DAY
        if seens[r, j] <= at:
            _add(min(begin + DAY // 2, oldest), counts[r, j], until, n)
        found |= begin <= until and begin + DAY > until - WINDOWS[-1] * DAY
    return found


@compiled
def _add(at: int, count: int, until: int, n: Int64s) -> None:
    """Add to the narrowest window that `at` is in."""
    for w in range(len(WINDOWS)):
        if at > until - WINDOWS[w] * DAY:
            n[w] += count
            return


@inlined
def _may_change(s: State, r: int, p: int, q: int, until: int, known: int) -> bool:
    """Whether a log of partition q is not read far enough, or so far that it dropped what counts.

    `p` is the partition of the transaction: its own log is read up to there.
    """
    mark, label_mark = s.mark_us[r, TRANSACTIONS], s.mark_us[r, LABELS]
    if s.owned[q]:
        mark, label_mark = _watermark(s, TRANSACTIONS, q), _watermark(s, LABELS, q)
    far = until - WINDOWS[-1] * DAY + SHARE_KEEP
    last = s.s_head[r] + s.s_count[r] - 1
    gone = q != p and s.s_count[r] > 0 and s.s_time[r, last] > far
    gone |= s.f_count[r] > 0 and s.f_time[r, s.f_count[r] - 1] > far
    return bool(mark <= until or label_mark <= known or gone)


@inlined
def _watermark(s: State, log: int, q: int) -> int:
    newest = max(s.newest_us[log, q], s.held_us[log, q])
    return int(max(newest - s.timing[0], s.quiet_us[log, q]))


@compiled
def _fraud_run(s: State, shares: Int32s, i: int, until: int, known: int) -> int:
    """Event time at which the unbroken run of frauds began that the newest event ends.

    Goes back over the shares' visible events of 30 days together, newest first; NOWHERE where the
    newest is no fraud.
    """
    begun = NOWHERE
    place = s.scratch
    for q in range(shares.shape[1]):
        r = shares[i, q]
        place[q] = s.s_head[r] + s.s_count[r] - 1
    while True:
        newest = NOWHERE
        for q in range(shares.shape[1]):
            r = shares[i, q]
            k = place[q]
            while k >= s.s_head[r] and (s.s_time[r, k] > until or s.s_seen[r, k] > until):
                k -= 1
            place[q] = k
            if k >= s.s_head[r] and s.s_time[r, k] > max(newest, until - 30 * DAY):
                newest = s.s_time[r, k]
        if newest == NOWHERE or not _was_fraud(s, shares, i, newest, known):
            return begun
        begun = newest
        for q in range(shares.shape[1]):
            r = shares[i, q]
            while place[q] >= s.s_head[r] and s.s_time[r, place[q]] >= newest:
                place[q] -= 1


@compiled
def _was_fraud(s: State, shares: Int32s, i: int, at: int, known: int) -> bool:
    """Whether a fraud of that instant is known at any share."""
    net = 0
    for q in range(shares.shape[1]):
        r = shares[i, q]
        for j in range(s.f_count[r]):
            if s.f_time[r, j] == at and s.f_seen[r, j] <= known:
                net += s.f_sign[r, j]
    return net > 0
