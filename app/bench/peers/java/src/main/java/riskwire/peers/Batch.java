package riskwire.peers;

import ai.onnxruntime.OrtException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.function.BiConsumer;

/** Records that are scored together; {@code R} is what a score needs to know of its record. */
final class Batch<R> implements AutoCloseable {
    private final Transaction[] rows;
    private final List<R> records;
    private final Vectors vectors;
    private final Model model;

    Batch(Options options, Vectors vectors) throws OrtException {
        this.vectors = vectors;
        model = new Model(options.model(), options.batch());
        records = new ArrayList<>(options.batch());
        rows = new Transaction[options.batch()];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = new Transaction();
        }
    }

    /** Adds the record whose encoded transaction starts there; whether the batch is full now. */
    boolean add(R record, byte[] data, int start) {
        rows[records.size()].decode(data, start);
        records.add(record);
        return records.size() == rows.length;
    }

    /** Gives away the score of each record and begins anew; how many there were. */
    int score(BiConsumer<R, byte[]> scored) {
        int n = records.size();
        if (n == 0) {
            return 0;
        }
        vectors.join(rows, n, model.matrix);
        model.run(n);
        byte[] emitted = Transaction.encoded(nowUs());
        for (int i = 0; i < n; i++) {
            scored.accept(records.get(i), rows[i].scored(model.score(i), emitted));
        }
        records.clear();
        return n;
    }

    @Override
    public void close() throws OrtException {
        model.close();
        vectors.close();
    }

    private static long nowUs() {
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000 + now.getNano() / 1000;
    }
}
