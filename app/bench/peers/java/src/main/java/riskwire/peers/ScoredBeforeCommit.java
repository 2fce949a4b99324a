package riskwire.peers;

import java.util.Set;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.internals.InternalProcessorContext;
import org.apache.kafka.streams.processor.internals.ProcessorNode;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.internals.AbstractStoreBuilder;
import org.apache.kafka.streams.state.internals.CacheFlushListener;
import org.apache.kafka.streams.state.internals.CachedStateStore;

/**
 * A batch that is scored before each commit, so that no committed offset is of a record without its
 * score.
 *
 * <p>The public API tells a processor nothing of a commit. Kafka Streams' internal one does: a task
 * flushes its cached stores first, so that what they forward belongs to the same commit. The
 * pending batch poses as such a store. Packages named {@code internals} may change at any time.
 */
final class ScoredBeforeCommit extends BatchProcessor {
    private static final String STORE = "pending";

    private ScoredBeforeCommit(Options options, Meter meter) {
        super(options, meter);
    }

    static ProcessorSupplier<byte[], byte[], byte[], byte[]> supplier(
            Options options, Meter meter) {
        return new ProcessorSupplier<>() {
            @Override
            public Processor<byte[], byte[], byte[], byte[]> get() {
                return new ScoredBeforeCommit(options, meter);
            }

            @Override
            public Set<StoreBuilder<?>> stores() {
                return Set.of(new PendingBuilder());
            }
        };
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        super.init(context);
        InternalProcessorContext<?, ?> internal = (InternalProcessorContext<?, ?>) context;
        ProcessorNode<?, ?, ?, ?> node = internal.currentNode();
        Pending pending = context.getStateStore(STORE);
        pending.beforeCommit = () -> {
            // Records are forwarded in the name of a node, and between records there is none.
            internal.setCurrentNode(node);
            score();
            internal.setCurrentNode(null);
        };
    }

    private static final class Pending implements StateStore, CachedStateStore<byte[], byte[]> {
        private Runnable beforeCommit = () -> {};
        private boolean open;

        @Override
        public String name() {
            return STORE;
        }

        @Override
        public void init(StateStoreContext context, StateStore root) {
            context.register(root, (key, value) -> {});
            open = true;
        }

        @Override
        public void flushCache() {
            beforeCommit.run();
        }

        @Override
        public boolean setFlushListener(
                CacheFlushListener<byte[], byte[]> listener, boolean sendOldValues) {
            return false;
        }

        @Override
        public void clearCache() {}

        @Override
        public void close() {
            open = false;
        }

        @Override
        public boolean persistent() {
            return false;
        }

        @Override
        public boolean isOpen() {
            return open;
        }
    }

    private static final class PendingBuilder
            extends AbstractStoreBuilder<byte[], byte[], Pending> {
        PendingBuilder() {
            super(STORE, null, null, Time.SYSTEM);
            withLoggingDisabled();
        }

        @Override
        public Pending build() {
            return new Pending();
        }
    }
}
