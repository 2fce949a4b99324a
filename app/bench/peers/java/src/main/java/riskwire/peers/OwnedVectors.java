package riskwire.peers;

import java.net.URI;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import redis.clients.jedis.Jedis;

/** Vectors kept in memory, as Riskwire does: Redis is asked once for each, by one MGET a batch. */
final class OwnedVectors implements Vectors {
    private final Jedis redis;
    private final Map<Token, byte[]> customers = new HashMap<>();
    private final Map<Token, byte[]> terminals = new HashMap<>();
    private final List<byte[]> missingKeys = new ArrayList<>();
    private final List<byte[]> missing = new ArrayList<>();
    private byte[][] found = {};

    OwnedVectors(URI redis) {
        this.redis = new Jedis(redis);
    }

    @Override
    public void join(Transaction[] rows, int n, ByteBuffer matrix) {
        if (found.length < 2 * n) {
            found = new byte[2 * n][];
        }
        for (int i = 0; i < n; i++) {
            found[2 * i] = vector(customers, rows[i].customer, 'c');
            found[2 * i + 1] = vector(terminals, rows[i].terminal, 't');
        }
        fill();
        for (int i = 0; i < 2 * n; i++) {
            matrix.put(i * VECTOR_BYTES, found[i]);
        }
    }

    @Override
    public void close() {
        redis.close();
    }

    /** An id seen for the first time gets an empty vector, which {@link #fill} completes. */
    private byte[] vector(Map<Token, byte[]> owned, Token token, char kind) {
        byte[] vector = owned.get(token);
        if (vector == null) {
            vector = new byte[VECTOR_BYTES];
            owned.put(token.copy(), vector);
            missingKeys.add(token.key(kind));
            missing.add(vector);
        }
        return vector;
    }

    private void fill() {
        if (missing.isEmpty()) {
            return;
        }
        List<byte[]> values = redis.mget(missingKeys.toArray(byte[][]::new));
        for (int i = 0; i < values.size(); i++) {
            if (values.get(i) != null) {
                System.arraycopy(values.get(i), 0, missing.get(i), 0, VECTOR_BYTES);
            }
        }
        missingKeys.clear();
        missing.clear();
    }
}
