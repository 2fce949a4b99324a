package riskwire.peers;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;

/**
 * Counts records and takes wall and CPU time from the end of the warm-up to the last delivery, as
 * {@code app.bench.lanes.lane.Meter} does. All but {@link #await} is for the scoring thread.
 */
final class Meter {
    private static final OperatingSystemMXBean SYSTEM =
            (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final int n;
    private final int warm;
    private final CountDownLatch delivered = new CountDownLatch(1);
    private int taken;
    private int scored;
    private int metered;
    private boolean warmed;
    private long wallNs = System.nanoTime();
    private long cpuNs = SYSTEM.getProcessCpuTime();

    Meter(int n, int warm) {
        this.n = n;
        this.warm = warm;
    }

    /** Whether one more record is to be scored: only the first {@code n} of a topic are. */
    boolean take() {
        return taken < n && taken++ < n;
    }

    void scored(int records) {
        scored += records;
        if (warmed) {
            metered += records;
        } else if (warm <= scored && scored < n) {
            warmed = true;
            wallNs = System.nanoTime();
            cpuNs = SYSTEM.getProcessCpuTime();
        }
    }

    /** Whether every record has its score, delivered or not. */
    boolean done() {
        return scored == n;
    }

    /** Every score so far has been delivered; the time ends if that is all. */
    void delivered() {
        if (done() && delivered.getCount() > 0) {
            wallNs = System.nanoTime() - wallNs;
            cpuNs = SYSTEM.getProcessCpuTime() - cpuNs;
            delivered.countDown();
        }
    }

    void await() throws InterruptedException {
        delivered.await();
    }

    String report() {
        return String.format(
                Locale.ROOT,
                "{\"tx\": %d, \"seconds\": %.6f, \"cpu_s\": %.6f, \"read\": %d, \"warmed\": %b}",
                warmed ? metered : scored, wallNs / 1e9, cpuNs / 1e9, scored, warmed);
    }
}
