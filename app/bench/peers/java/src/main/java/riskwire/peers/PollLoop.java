package riskwire.peers;

import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.ByteBufferDeserializer;

/**
 * Plain clients, at least once: a poll's records are a batch, scored at once, and what has been
 * polled is committed when its scores are acknowledged, every 100 ms.
 */
final class PollLoop implements AutoCloseable {
    private final Options options;
    private final Meter meter;
    private final Batch<ConsumerRecord<byte[], ByteBuffer>> batch;
    private final KafkaConsumer<byte[], ByteBuffer> consumer;
    private final KafkaProducer<byte[], byte[]> producer;
    private volatile Exception refused;

    private PollLoop(Options options, Meter meter, Vectors vectors) throws Exception {
        this.options = options;
        this.meter = meter;
        batch = new Batch<>(options, vectors);
        Map<String, Object> reading = new HashMap<>(Tuning.CONSUMER);
        reading.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        reading.put(ConsumerConfig.GROUP_ID_CONFIG, options.group());
        reading.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        reading.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, options.batch());
        // A ByteBuffer is a window onto the fetched bytes; a byte array would be a copy.
        consumer = new KafkaConsumer<>(
                reading, new ByteArrayDeserializer(), new ByteBufferDeserializer());
        Map<String, Object> writing = new HashMap<>(Tuning.PRODUCER);
        writing.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        producer = new KafkaProducer<>(
                writing, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static void run(Options options, Meter meter, Vectors vectors) throws Exception {
        try (PollLoop loop = new PollLoop(options, meter, vectors)) {
            loop.run();
        }
    }

    private void run() {
        consumer.subscribe(List.of(options.topic()));
        long committedNs = System.nanoTime();
        while (!meter.done()) {
            for (ConsumerRecord<byte[], ByteBuffer> record : consumer.poll(options.linger())) {
                if (meter.take()) {
                    ByteBuffer value = record.value();
                    batch.add(record, value.array(), value.arrayOffset() + value.position());
                }
            }
            meter.scored(batch.score(this::send));
            if (System.nanoTime() - committedNs > Tuning.COMMIT_INTERVAL.toNanos()) {
                flush();
                consumer.commitAsync();
                committedNs = System.nanoTime();
            }
        }
        flush();
        consumer.commitSync();
        meter.delivered();
    }

    private void send(ConsumerRecord<byte[], ByteBuffer> record, byte[] score) {
        producer.send(
                new ProducerRecord<>(options.scores(), record.partition(), record.key(), score),
                this::acknowledged);
    }

    private void acknowledged(RecordMetadata metadata, Exception error) {
        if (error != null) {
            refused = error;
        }
    }

    private void flush() {
        producer.flush();
        if (refused != null) {
            throw new IllegalStateException("a score could not be delivered", refused);
        }
    }

    @Override
    public void close() throws OrtException {
        consumer.close();
        producer.close();
        batch.close();
    }
}
