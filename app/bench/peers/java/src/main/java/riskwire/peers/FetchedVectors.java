package riskwire.peers;

import java.net.URI;
import java.nio.ByteBuffer;
import redis.clients.jedis.Jedis;

/** Every vector from Redis, each time: one MGET a batch. */
final class FetchedVectors implements Vectors {
    private final Jedis redis;

    FetchedVectors(URI redis) {
        this.redis = new Jedis(redis);
    }

    @Override
    public void join(Transaction[] rows, int n, ByteBuffer matrix) {
        byte[][] keys = new byte[2 * n][];
        for (int i = 0; i < n; i++) {
            keys[2 * i] = rows[i].customer.key('c');
            keys[2 * i + 1] = rows[i].terminal.key('t');
        }
        int at = 0;
        for (byte[] vector : redis.mget(keys)) {
            matrix.put(at, vector == null ? ABSENT : vector);
            at += VECTOR_BYTES;
        }
    }

    @Override
    public void close() {
        redis.close();
    }
}
