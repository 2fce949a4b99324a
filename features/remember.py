"""How the state remembers: insertion into sorted, bounded rows, and tiles for what exceeds them.

The other half of `kernel`. Everything is a function of the set of records that a row was given, not
of their order: sorted rows, dropped by whole tiles before the newest event, the oldest beyond the
bound counted into tiles. Numba's cache on disk sees changes of the file that a cached loop is in
only: after a change here delete features/__pycache__, since `kernel` has these loops compiled in.
"""

from features.compiled import compiled, inlined
from features.state import Int32s, Int64s, State

# Numbers, as in `kernel`.
DAY = 86_400_000_000
DELAY, MEDIAN_LAST = 7 * DAY, 127
CUSTOMER_EVENTS, CUSTOMER_TILE, CUSTOMER_KEEP = 256, 3 * DAY, 183 * DAY
SHARE_EVENTS, SHARE_FRAUDS, SHARE_KEEP = 128, 64, 45 * DAY


@inlined
def insert(ascending: Int64s, n: int, value: int) -> None:
    """Put a value into the first n of an array, which are in ascending order."""
    k = n
    while k > 0 and ascending[k - 1] > value:
        ascending[k] = ascending[k - 1]
        k -= 1
    ascending[k] = value


@compiled
def sort_amounts(s: State, c: int) -> None:
    """Make `c_sorted` of a customer anew from its row."""
    end = s.c_head[c] + s.c_count[c]
    n = min(s.c_count[c], MEDIAN_LAST)
    for j in range(n):
        insert(s.c_sorted[c], j, s.c_amount[c, end - n + j])


@inlined
def sum_amounts(s: State, c: int, first: int) -> None:
    """Make `c_sum` of a customer anew from a place of its row on."""
    before = s.c_sum[c, first - 1] if first > s.c_head[c] else 0
    for k in range(first, s.c_head[c] + s.c_count[c]):
        before += s.c_amount[c, k]
        s.c_sum[c, k] = before


@compiled
def find_late(s: State, r: int) -> None:
    """Make `s_late` of a share anew from its row."""
    s.s_late[r, 0] = s.s_late[r, 1] = 0
    for k in range(s.s_head[r], s.s_head[r] + s.s_count[r]):
        if s.s_seen[r, k] > s.s_time[r, k]:
            _late(s, r, s.s_time[r, k])


@inlined
def _late(s: State, r: int, t: int) -> None:
    """Let an event have become visible late."""
    s.s_late[r, 0] = min(s.s_late[r, 0], t) if s.s_late[r, 1] > 0 else t
    s.s_late[r, 1] = max(s.s_late[r, 1], t)


@inlined
def _replace(ascending: Int64s, c: int, n: int, old: int, new: int) -> None:
    """Take a value out of row c, n in ascending order, and put another one in."""
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        if ascending[c, middle] < old:
            low = middle + 1
        else:
            high = middle
    while low + 1 < n and ascending[c, low + 1] < new:
        ascending[c, low] = ascending[c, low + 1]
        low += 1
    while low > 0 and ascending[c, low - 1] > new:
        ascending[c, low] = ascending[c, low - 1]
        low -= 1
    ascending[c, low] = new


@compiled
def _dropped(t: int, newest: int, tile: int, keep: int) -> bool:
    """Whether the tile of `t` is over before anything that the windows at `newest` can reach."""
    far = newest - keep
    return t <= far and (t // tile + 1) * tile <= far


@inlined
def remember(s: State, c: int, t: int, amount: int) -> None:
    """Insert a transaction into its customer's row, which stays sorted by time, then amount."""
    before = s.c_count[c]
    newest = _drop_events(s.c_time, s.c_head, s.c_count, c, t, CUSTOMER_TILE, CUSTOMER_KEEP)
    if s.c_tiles[c] > 0:
        _drop_customer_tiles(s, c, newest)
    if _dropped(t, newest, CUSTOMER_TILE, CUSTOMER_KEEP):
        return
    head, n = s.c_head[c], s.c_count[c]
    if n == CUSTOMER_EVENTS:
        first_t, first_amount = s.c_time[c, head], s.c_amount[c, head]
        if t < first_t or (t == first_t and amount <= first_amount):
            _tile_customer(s, c, t, amount)
            return
        _tile_customer(s, c, first_t, first_amount)
        s.c_head[c], s.c_count[c] = head + 1, n - 1
        n -= 1
    leaves = s.c_amount[c, s.c_head[c] + n - MEDIAN_LAST] if n >= MEDIAN_LAST else 0
    head = s.c_head[c]
    place = _insert_event(s.c_time, s.c_amount, s.c_head, s.c_count, c, t, amount)
    sum_amounts(s, c, place if s.c_head[c] == head else s.c_head[c])
    if place < s.c_head[c] + n or (n < before and n < MEDIAN_LAST):
        sort_amounts(s, c)
        return
    if n >= MEDIAN_LAST:
        _replace(s.c_sorted, c, MEDIAN_LAST, leaves, amount)
    else:
        insert(s.c_sorted[c], n, amount)


@inlined
def _drop_events(
    times: Int64s, heads: Int32s, counts: Int32s, r: int, t: int, tile: int, keep: int
) -> int:
    """Drop a row's events that no window can reach once `t` is there; the row's newest time."""
    head, n = heads[r], counts[r]
    newest = max(t, times[r, head + n - 1]) if n > 0 else t
    while n > 0 and _dropped(times[r, head], newest, tile, keep):
        head += 1
        n -= 1
    heads[r], counts[r] = head, n
    return int(newest)


@inlined
def _insert_event(
    times: Int64s, values: Int64s, heads: Int32s, counts: Int32s, r: int, t: int, value: int
) -> int:
    """Insert an event into a row sorted by time, then value; its place.

    A row that has reached its end moves to its beginning first.
    """
    head, n = heads[r], counts[r]
    if head + n == times.shape[1]:
        for j in range(n):
            times[r, j], values[r, j] = times[r, head + j], values[r, head + j]
        head = 0
    k = head + n
    while k > head and (times[r, k - 1] > t or (times[r, k - 1] == t and values[r, k - 1] > value)):
        times[r, k], values[r, k] = times[r, k - 1], values[r, k - 1]
        k -= 1
    times[r, k], values[r, k] = t, value
    heads[r], counts[r] = head, n + 1
    return int(k)


@compiled
def _drop_customer_tiles(s: State, c: int, newest: int) -> None:
    while s.c_tiles[c] > 0 and _dropped(
        s.c_tile_day[c, 0] * CUSTOMER_TILE, newest, CUSTOMER_TILE, CUSTOMER_KEEP
    ):
        s.c_tiles[c] -= 1
        for j in range(s.c_tiles[c]):
            s.c_tile_day[c, j] = s.c_tile_day[c, j + 1]
            s.c_tile_count[c, j] = s.c_tile_count[c, j + 1]
            s.c_tile_sum[c, j] = s.c_tile_sum[c, j + 1]
            s.c_tile_seen[c, j] = s.c_tile_seen[c, j + 1]


@compiled
def _tile_customer(s: State, c: int, t: int, amount: int) -> None:
    j = _tile(s.c_tiles, s.c_tile_day, s.c_tile_count, s.c_tile_seen, c, t // CUSTOMER_TILE, t)
    if s.c_tile_count[c, j] == 0:
        for k in range(s.c_tiles[c] - 1, j, -1):
            s.c_tile_sum[c, k] = s.c_tile_sum[c, k - 1]
        s.c_tile_sum[c, j] = 0
    s.c_tile_sum[c, j] += amount
    s.c_tile_count[c, j] += 1


@compiled
def _tile(
    tiles: Int32s, days: Int32s, counts: Int32s, seens: Int64s, r: int, day: int, seen: int
) -> int:
    """Place of the day's tile in row r, made with a count of 0 where there is none."""
    n = tiles[r]
    j = n
    while j > 0 and days[r, j - 1] >= day:
        j -= 1
    if j == n or days[r, j] != day:
        for k in range(n, j, -1):
            days[r, k] = days[r, k - 1]
            counts[r, k] = counts[r, k - 1]
            seens[r, k] = seens[r, k - 1]
        days[r, j], counts[r, j], seens[r, j] = day, 0, seen
        tiles[r] = n + 1
    seens[r, j] = max(seens[r, j], seen)
    return int(j)


@compiled
def _drop_tiles(
    tiles: Int32s, days: Int32s, counts: Int32s, seens: Int64s, r: int, newest: int
) -> None:
    while tiles[r] > 0 and _dropped(days[r, 0] * DAY, newest, DAY, SHARE_KEEP):
        tiles[r] -= 1
        for j in range(tiles[r]):
            days[r, j] = days[r, j + 1]
            counts[r, j] = counts[r, j + 1]
            seens[r, j] = seens[r, j + 1]


@inlined
def remember_at(s: State, r: int, t: int, seen: int) -> None:
    """Insert a transaction into a share, which stays sorted by time, then visibility."""
    newest = _drop_events(s.s_time, s.s_head, s.s_count, r, t, DAY, SHARE_KEEP)
    if s.s_tiles[r] > 0:  # a call with so many arrays costs more than most of this
        _drop_tiles(s.s_tiles, s.s_tile_day, s.s_tile_count, s.s_tile_seen, r, newest)
    if _dropped(t, newest, DAY, SHARE_KEEP):
        return
    if s.s_count[r] == SHARE_EVENTS:
        old_t, old_seen = s.s_time[r, s.s_head[r]], s.s_seen[r, s.s_head[r]]
        is_oldest = t < old_t or (t == old_t and seen <= old_seen)
        if is_oldest:
            old_t, old_seen = t, seen
        j = _tile(s.s_tiles, s.s_tile_day, s.s_tile_count, s.s_tile_seen, r, old_t // DAY, old_seen)
        s.s_tile_count[r, j] += 1
        if is_oldest:
            return
        s.s_head[r] += 1
        s.s_count[r] -= 1
    _insert_event(s.s_time, s.s_seen, s.s_head, s.s_count, r, t, seen)
    if seen > t:
        _late(s, r, t)


@compiled
def remember_outcome(s: State, r: int, t: int, seen: int, tag: int, fraud: int) -> None:
    """Insert a fraud, or the taking back of one, sorted by time, tag, sign and visibility.

    Said twice counts once; that a payment was good is only news where it was called a fraud. What
    is in a tile is not told apart any more: said again or taken back it counts anew.
    """
    n = s.f_count[r]
    net = 0
    for j in range(n):
        if s.f_time[r, j] == t and s.f_tag[r, j] == tag:
            net += s.f_sign[r, j]
    if (fraud == 1) == (net > 0):
        return
    sign = 1 if fraud == 1 else -1
    newest = max(t, s.f_time[r, n - 1]) if n > 0 else t
    gone = 0
    while gone < n and _dropped(s.f_time[r, gone], newest, DAY, SHARE_KEEP):
        gone += 1
    _drop_tiles(s.f_tiles, s.f_tile_day, s.f_tile_count, s.f_tile_seen, r, newest)
    late = _dropped(t, newest, DAY, SHARE_KEEP)
    if n - gone == SHARE_FRAUDS and not late:
        # Whichever is the oldest becomes part of a tile.
        late = t < s.f_time[r, 0] or (t == s.f_time[r, 0] and tag < s.f_tag[r, 0])
        old_t = t if late else s.f_time[r, 0]
        old_seen = seen if late else s.f_seen[r, 0]
        old_sign = sign if late else s.f_sign[r, 0]
        visible = max(old_t + DELAY, old_seen + s.timing[1])
        j = _tile(s.f_tiles, s.f_tile_day, s.f_tile_count, s.f_tile_seen, r, old_t // DAY, visible)
        s.f_tile_count[r, j] += old_sign
        gone += not late
    for j in range(n - gone):
        s.f_time[r, j] = s.f_time[r, j + gone]
        s.f_seen[r, j] = s.f_seen[r, j + gone]
        s.f_tag[r, j] = s.f_tag[r, j + gone]
        s.f_sign[r, j] = s.f_sign[r, j + gone]
    n -= gone
    s.f_count[r] = n
    if late:
        return
    k = n
    while k > 0 and (
        s.f_time[r, k - 1] > t or (s.f_time[r, k - 1] == t and s.f_tag[r, k - 1] > tag)
    ):
        s.f_time[r, k] = s.f_time[r, k - 1]
        s.f_seen[r, k] = s.f_seen[r, k - 1]
        s.f_tag[r, k] = s.f_tag[r, k - 1]
        s.f_sign[r, k] = s.f_sign[r, k - 1]
        k -= 1
    s.f_time[r, k], s.f_seen[r, k], s.f_tag[r, k], s.f_sign[r, k] = t, seen, tag, sign
    s.f_count[r] = n + 1
