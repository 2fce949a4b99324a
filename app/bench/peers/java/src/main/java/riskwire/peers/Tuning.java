package riskwire.peers;

import java.time.Duration;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;

/** What the clients of all variants are told beyond their defaults. */
final class Tuning {
    static final Duration COMMIT_INTERVAL = Duration.ofMillis(100);

    static final Map<String, Object> CONSUMER = Map.of(
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            // A fetch that waits for a partition without news holds up those with records.
            ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 10,
            // As librdkafka's default, so that no peer does more than the others.
            ConsumerConfig.CHECK_CRCS_CONFIG, false);

    static final Map<String, Object> PRODUCER = Map.of(
            ProducerConfig.ACKS_CONFIG, "all",
            ProducerConfig.LINGER_MS_CONFIG, 5,
            ProducerConfig.BATCH_SIZE_CONFIG, 256 * 1024,
            ProducerConfig.BUFFER_MEMORY_CONFIG, 64 * 1024 * 1024L);

    private Tuning() {}
}
