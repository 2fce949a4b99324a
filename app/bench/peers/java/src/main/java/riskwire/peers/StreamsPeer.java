package riskwire.peers;

import static org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler
        .StreamThreadExceptionResponse.SHUTDOWN_CLIENT;

import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.internals.DefaultKafkaClientSupplier;

/** Kafka Streams' Processor API on one thread, bytes in and out. */
final class StreamsPeer {
    private static final Serde<byte[]> BYTES = Serdes.ByteArray();

    private StreamsPeer() {}

    /** Scores everything; {@code once} is exactly once, {@code safe} scores before each commit. */
    static void run(Options options, Meter meter, boolean once, boolean safe) throws Exception {
        ProcessorSupplier<byte[], byte[], byte[], byte[]> scoring = safe
                ? ScoredBeforeCommit.supplier(options, meter)
                : () -> new BatchProcessor(options, meter);
        // The keys came to their partitions by Kafka's own rule, so the sink's default keeps them.
        Topology topology = new Topology()
                .addSource("source", BYTES.deserializer(), BYTES.deserializer(), options.topic())
                .addProcessor("score", scoring, "source")
                .addSink("sink", options.scores(), BYTES.serializer(), BYTES.serializer(), "score");
        KafkaStreams streams =
                new KafkaStreams(topology, properties(options, once), new Clients(meter));
        streams.setUncaughtExceptionHandler((StreamsUncaughtExceptionHandler) error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return SHUTDOWN_CLIENT;
        });
        streams.start();
        meter.await();
        streams.close();
        streams.cleanUp();
    }

    private static Properties properties(Options options, boolean once) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, options.group());
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        properties.put(
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                once ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Tuning.COMMIT_INTERVAL.toMillis());
        // The thread looks at the clock between polls only: a longer one would delay a batch.
        properties.put(StreamsConfig.POLL_MS_CONFIG, options.linger().toMillis());
        Tuning.CONSUMER.forEach((k, v) -> properties.put(StreamsConfig.consumerPrefix(k), v));
        Tuning.PRODUCER.forEach((k, v) -> properties.put(StreamsConfig.producerPrefix(k), v));
        return properties;
    }

    /** Streams' own clients, of which the producer tells the meter what has been delivered. */
    private static final class Clients extends DefaultKafkaClientSupplier {
        private final Meter meter;

        Clients(Meter meter) {
            this.meter = meter;
        }

        @Override
        public Producer<byte[], byte[]> getProducer(Map<String, Object> config) {
            boolean transactional = config.containsKey(ProducerConfig.TRANSACTIONAL_ID_CONFIG);
            return new KafkaProducer<>(config, BYTES.serializer(), BYTES.serializer()) {
                @Override
                public void flush() {
                    super.flush();
                    if (!transactional) {
                        meter.delivered();
                    }
                }

                @Override
                public void commitTransaction() {
                    super.commitTransaction();
                    meter.delivered();
                }
            };
        }
    }
}
