package riskwire.peers;

import java.nio.ByteBuffer;

/** Where the features come from. */
interface Vectors extends AutoCloseable {
    int VECTOR_BYTES = 32 * Float.BYTES;
    byte[] ABSENT = new byte[VECTOR_BYTES];

    /** Fills the matrix's first {@code n} rows: the customer's vector, then the terminal's. */
    void join(Transaction[] rows, int n, ByteBuffer matrix);

    @Override
    void close();
}
