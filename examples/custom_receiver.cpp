// test: 1
// A receiver of your own: readings of three made-up sensors, their mean and maximum in each batch.
//
//     custom_receiver          # until Ctrl-C
//     custom_receiver 5        # for five seconds
//
// Shows: how a program brings its own source into a stream, a union of several receivers, a record type of one's own,
// and a graceful stop: the readings that were taken are the readings that were counted.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/process.h"
#include "sluice/sluice.h"

using namespace std::chrono_literals;

namespace {

struct Reading {
  int sensor = 0;
  double celsius = 0;
};

// Readings that the receivers have handed over, to compare with what the stream has counted. Receivers run in this
// process as long as the master is "local[N]".
std::atomic<long> taken{0};

// A source: `run` has a thread of its own and takes a core for as long as the stream runs.
class Sensor : public sluice::Receiver<Reading> {
 public:
  explicit Sensor(int number) : number_(number) {}

  void run(sluice::ReceiverContext<Reading>& context) override {
    for (int n = 0; context.wait_for(10ms); ++n) {  // false when the stream stops
      const double celsius = 20 + number_ + std::sin(n / 50.0);
      if (context.store({number_, celsius})) ++taken;  // waits while the stream is behind
    }
  }

 private:
  int number_;
};

struct Summary {
  long count = 0;
  double sum = 0;
  double max = -1000;
};

Summary join(const Summary& a, const Summary& b) { return {a.count + b.count, a.sum + b.sum, std::max(a.max, b.max)}; }

void run(std::chrono::seconds run_time) {
  const sluice::Context ctx({.app = "custom_receiver", .master = "local[4]"});  // three receivers and a core for tasks
  const sluice::StreamingContext ssc(ctx, {.batch = 500ms});

  std::vector<sluice::DStream<Reading>> sensors;
  for (int number = 1; number <= 3; ++number) {
    // The factory is called where the receiver runs; it captures plain values.
    sensors.push_back(ssc.receiver_stream<Reading>([number] { return std::make_unique<Sensor>(number); }));
  }
  long counted = 0;  // functions of foreach_rdd run in this program and may use its variables
  ssc.union_of(sensors)
      .map([](const Reading& r) { return std::pair{r.sensor, Summary{1, r.celsius, r.celsius}}; })
      .reduce_by_key(join)
      .foreach_rdd([&counted](const sluice::Rdd<std::pair<int, Summary>>& summaries, sluice::Time time) {
        for (const auto& [sensor, s] : summaries.collect()) {
          std::printf("%lld  sensor %d: %3ld readings, mean %.2f, max %.2f\n", sluice::to_milliseconds(time), sensor,
                      s.count, s.sum / static_cast<double>(s.count), s.max);
          counted += s.count;
        }
        std::fflush(stdout);
      });

  const sluice::SignalWatch watch([&ssc](int) { ssc.request_stop(); });
  ssc.start();
  if (!ssc.await_termination(run_time)) ssc.stop({.graceful = true});  // the last batch has what came until now
  ssc.await_termination();
  std::printf("%ld readings taken, %ld counted\n", taken.load(), counted);
}

}  // namespace

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  const std::string_view argument = argc > 1 ? argv[1] : "1000000";
  long seconds = 0;
  std::from_chars(argument.data(), argument.data() + argument.size(), seconds);
  if (argc > 2 || seconds <= 0) {
    std::fprintf(argument == "--help" ? stdout : stderr,
                 "usage: custom_receiver [SECONDS]\nSummarises the readings of three made-up sensors.\n");
    return argument == "--help" ? 0 : 2;
  }
  try {
    run(std::chrono::seconds(seconds));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "custom_receiver: %s\n", error.what());
    return 1;
  }
}
