package riskwire.peers;

import java.util.Arrays;

/** A customer's or terminal's id: a window onto a record's bytes, of which a copy keys a map. */
final class Token {
    private byte[] data;
    private int start;
    private int end;

    void set(byte[] data, int start, int end) {
        this.data = data;
        this.start = start;
        this.end = end;
    }

    Token copy() {
        Token copy = new Token();
        copy.set(Arrays.copyOfRange(data, start, end), 0, end - start);
        return copy;
    }

    /** {@code kind:id}, as Redis has it. */
    byte[] key(char kind) {
        byte[] key = new byte[2 + end - start];
        key[0] = (byte) kind;
        key[1] = ':';
        System.arraycopy(data, start, key, 2, end - start);
        return key;
    }

    @Override
    public int hashCode() {
        int hash = 0;
        for (int i = start; i < end; i++) {
            hash = 31 * hash + data[i];
        }
        return hash;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Token that
                && Arrays.equals(data, start, end, that.data, that.start, that.end);
    }
}
