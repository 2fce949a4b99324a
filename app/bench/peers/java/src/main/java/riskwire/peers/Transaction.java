package riskwire.peers;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * A window onto one encoded transaction (schemas/transaction.avsc), and its score's encoder. Made
 * once for each place of a batch and moved from record to record: decoding leaves no garbage.
 */
final class Transaction {
    private static final int HEADER_BYTES = 10;
    private static final VarHandle FLOAT =
            MethodHandles.byteArrayViewVarHandle(float[].class, ByteOrder.LITTLE_ENDIAN);

    final Token customer = new Token();
    final Token terminal = new Token();
    private byte[] data;
    private int at;
    private int idStart;
    private int idEnd;
    private int timeStart;
    private int timeEnd;

    /** Moves to the message that starts there. */
    void decode(byte[] data, int start) {
        this.data = data;
        at = start + HEADER_BYTES;
        idStart = at;
        int idLength = readInt();
        at += idLength;
        idEnd = at;
        readToken(customer);
        readToken(terminal);
        timeStart = at;
        readInt();
        timeEnd = at;
    }

    /** The score's Avro body; id and event time are the transaction's own bytes. */
    byte[] scored(float score, byte[] emitted) {
        int idBytes = idEnd - idStart;
        int timeBytes = timeEnd - timeStart;
        byte[] body = new byte[idBytes + Float.BYTES + timeBytes + emitted.length];
        System.arraycopy(data, idStart, body, 0, idBytes);
        FLOAT.set(body, idBytes, score);
        System.arraycopy(data, timeStart, body, idBytes + Float.BYTES, timeBytes);
        System.arraycopy(emitted, 0, body, body.length - emitted.length, emitted.length);
        return body;
    }

    /** An Avro long that is positive: zigzag, seven bits a byte. */
    static byte[] encoded(long value) {
        long left = value << 1;
        byte[] bytes = new byte[(70 - Long.numberOfLeadingZeros(left | 1)) / 7];
        for (int i = 0; i < bytes.length - 1; i++, left >>>= 7) {
            bytes[i] = (byte) (left | 0x80);
        }
        bytes[bytes.length - 1] = (byte) left;
        return bytes;
    }

    private void readToken(Token token) {
        int length = readInt();
        token.set(data, at, at + length);
        at += length;
    }

    private int readInt() {
        int bits = 0;
        for (int shift = 0; ; shift += 7) {
            byte next = data[at++];
            bits |= (next & 0x7f) << shift;
            if (next >= 0) {
                return bits >>> 1 ^ -(bits & 1);
            }
        }
    }
}
