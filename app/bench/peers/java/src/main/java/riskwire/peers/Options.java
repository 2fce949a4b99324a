package riskwire.peers;

import java.net.URI;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/** The command line: pairs of {@code --name value}. */
record Options(
        String variant,
        String bootstrap,
        String topic,
        String scores,
        String group,
        int n,
        int warm,
        URI redis,
        String model,
        int batch,
        Duration linger) {

    static Options parse(String[] arguments) {
        Map<String, String> given = new HashMap<>();
        given.put("warm", "0");
        given.put("batch", "256");
        given.put("linger-ms", "10");
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            given.put(arguments[i].replaceFirst("^--", ""), arguments[i + 1]);
        }
        return new Options(
                required(given, "variant"),
                required(given, "bootstrap"),
                required(given, "topic"),
                required(given, "scores"),
                required(given, "group"),
                Integer.parseInt(required(given, "n")),
                Integer.parseInt(required(given, "warm")),
                URI.create(required(given, "redis")),
                required(given, "model"),
                Integer.parseInt(required(given, "batch")),
                Duration.ofMillis(Long.parseLong(required(given, "linger-ms"))));
    }

    /** The same, without batches. */
    Options perEvent() {
        return new Options(
                variant, bootstrap, topic, scores, group, n, warm, redis, model, 1, linger);
    }

    private static String required(Map<String, String> given, String name) {
        String value = given.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }
}
