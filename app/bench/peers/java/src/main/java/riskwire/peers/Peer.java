package riskwire.peers;

/**
 * A peer of {@code riskwire bench peers} on the JVM: reads transactions, joins each with two
 * vectors from Redis, scores them with ONNX Runtime and writes the scores; {@code --variant} says
 * how.
 */
public final class Peer {
    private Peer() {}

    public static void main(String[] arguments) throws Exception {
        Options options = Options.parse(arguments);
        Meter meter = new Meter(options.n(), options.warm());
        switch (options.variant()) {
            case "poll" -> PollLoop.run(options, meter, new FetchedVectors(options.redis()));
            case "poll-owned" -> PollLoop.run(options, meter, new OwnedVectors(options.redis()));
            case "streams-event" -> StreamsPeer.run(options.perEvent(), meter, false, false);
            case "streams-batch" -> StreamsPeer.run(options, meter, false, false);
            case "streams-eos" -> StreamsPeer.run(options, meter, true, false);
            case "streams-eos-safe" -> StreamsPeer.run(options, meter, true, true);
            default -> throw new IllegalArgumentException("no variant " + options.variant());
        }
        System.out.println(meter.report());
    }
}
