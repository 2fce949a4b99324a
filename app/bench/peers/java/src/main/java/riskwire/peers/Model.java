package riskwire.peers;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.OrtSession.SessionOptions;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Map;

/** The network on one thread; ONNX Runtime reads and writes its direct buffers in place. */
final class Model implements AutoCloseable {
    private static final int ROW_BYTES = 2 * Vectors.VECTOR_BYTES;

    final ByteBuffer matrix;
    private final ByteBuffer scores;
    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private final OrtSession session;
    private final Bound[] bound;

    /** The first rows of the two buffers, as tensors. */
    private record Bound(Map<String, OnnxTensor> inputs, Map<String, OnnxTensor> outputs) {}

    Model(String path, int rowsMax) throws OrtException {
        matrix = direct(rowsMax * ROW_BYTES);
        scores = direct(rowsMax * Float.BYTES);
        bound = new Bound[rowsMax + 1];
        try (SessionOptions options = new SessionOptions()) {
            options.setIntraOpNumThreads(1);
            options.setInterOpNumThreads(1);
            options.addConfigEntry("session.intra_op.allow_spinning", "0");
            options.addConfigEntry("session.inter_op.allow_spinning", "0");
            session = environment.createSession(path, options);
        }
    }

    /** Scores the first {@code n} rows of the matrix. */
    void run(int n) {
        try {
            if (bound[n] == null) {
                bound[n] = new Bound(
                        Map.of("x", tensor(matrix, n, ROW_BYTES)),
                        Map.of("score", tensor(scores, n, Float.BYTES)));
            }
            session.run(bound[n].inputs, bound[n].outputs).close();
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }

    float score(int row) {
        return scores.getFloat(row * Float.BYTES);
    }

    @Override
    public void close() throws OrtException {
        session.close();
    }

    private OnnxTensor tensor(ByteBuffer buffer, int n, int rowBytes) throws OrtException {
        ByteBuffer rows = buffer.slice(0, n * rowBytes);
        return OnnxTensor.createTensor(
                environment, rows, new long[] {n, rowBytes / Float.BYTES}, OnnxJavaType.FLOAT);
    }

    private static ByteBuffer direct(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }
}
