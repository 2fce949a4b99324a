package riskwire.peers;

import ai.onnxruntime.OrtException;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

/**
 * Scores a task's records in batches, full ones or what has come within the linger.
 *
 * <p>Kafka Streams commits the offset of every record that {@link #process} has returned from, so
 * this buffer alone loses up to a batch a task in a crash, at least once and exactly once alike.
 * {@link ScoredBeforeCommit} closes that window; a batch of one record has none.
 */
class BatchProcessor implements Processor<byte[], byte[], byte[], byte[]> {
    private final Options options;
    private final Meter meter;
    private ProcessorContext<byte[], byte[]> context;
    private Batch<Record<byte[], byte[]>> batch;

    BatchProcessor(Options options, Meter meter) {
        this.options = options;
        this.meter = meter;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        try {
            batch = new Batch<>(options, new FetchedVectors(options.redis()));
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
        if (options.batch() > 1) {
            context.schedule(options.linger(), PunctuationType.WALL_CLOCK_TIME, now -> score());
        }
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        if (meter.take() && batch.add(record, record.value(), 0)) {
            score();
        }
    }

    final void score() {
        int scored = batch.score(this::forward);
        meter.scored(scored);
        if (scored > 0 && meter.done()) {
            context.commit();
        }
    }

    private void forward(Record<byte[], byte[]> record, byte[] score) {
        context.forward(record.withValue(score));
    }

    @Override
    public void close() {
        try {
            batch.close();
        } catch (OrtException error) {
            throw new IllegalStateException(error);
        }
    }
}
