#include "benchmarks/engine.h"

#include <cstring>
#include <memory>
#include <string>

#include "benchmarks/stream.h"

namespace bench {
namespace {

using namespace std::chrono_literals;

/// Runs the batches one directly after the other: at an interval of 1 ms each is late. `rdd(context, batch number)` is
/// the input, `counted(input stream)` the workload, a stream of one number a batch.
template <class T, class MakeRdd, class Counted>
Sample run_batches(const Plan& plan, const MakeRdd& rdd, const Counted& counted) {
  // State needs one; the others get it too, as a user's would have it.
  const Scratch scratch;
  Stream stream(plan.threads, {.batch = 1ms, .checkpoint = scratch.path()});
  sluice::RddQueue<T> queue;
  for (std::size_t batch = 0; batch < plan.all_batches(); ++batch) queue.push(rdd(stream.context, batch));
  std::int64_t sum = 0;
  counted(stream.ssc.queue_stream(queue)).foreach_rdd([&sum](const sluice::Rdd<std::int64_t>& count) {
    sum += count.collect()[0];
  });
  BatchTimer timer(plan);
  stream.run([&](const sluice::BatchInfo&) {
    timer.batch_ended();
    return !timer.done();
  });
  return timer.take(sum);
}

template <class Counted>
Sample run_text(const TextData& text, const Plan& plan, const Counted& counted) {
  return run_batches<std::string_view>(
      plan,
      [&text](const sluice::Context& context, std::size_t batch) {
        std::vector<sluice::MemoryBlock> blocks;
        for (const std::string_view slice : text.slices[batch % text.slices.size()]) {
          blocks.push_back({text.pages.owner(), slice});
        }
        return context.text_blocks(std::move(blocks));
      },
      counted);
}

template <class Counted>
Sample run_events(const EventData& events, const Plan& plan, const Counted& counted) {
  return run_batches<Event>(
      plan,
      [&](const sluice::Context& context, std::size_t batch) {
        const Event* const all = events.batch(batch % events.batches);
        std::vector<sluice::MemoryBlock> blocks;
        for (std::size_t t = 0; t < plan.threads; ++t) {
          const std::size_t begin = events.events_a_batch * t / plan.threads;
          const std::size_t end = events.events_a_batch * (t + 1) / plan.threads;
          blocks.push_back(
              {events.pages.owner(), {reinterpret_cast<const char*>(all + begin), (end - begin) * sizeof(Event)}});
        }
        return context.record_blocks<Event>(std::move(blocks));
      },
      counted);
}

/// A word count over a queue that the caller fills.
class SmallWordCount {
 public:
  explicit SmallWordCount(sluice::Duration interval, const std::string& directory = {})
      : stream(2, {.batch = interval, .checkpoint = directory}) {
    words_of(stream.ssc.queue_stream(queue)).reduce_by_key(std::plus{}).foreach_rdd([this](const auto& counts) {
      words_ += counts.count();
    });
  }
  void push(const std::shared_ptr<const std::string>& text) {
    queue.push(stream.context.text_blocks({{text, std::string_view(*text)}}));
  }
  /// Different words, summed over the batches.
  std::int64_t words() const { return words_; }

  Stream stream;
  sluice::RddQueue<std::string_view> queue;

 private:
  std::int64_t words_ = 0;
};

}  // namespace

Sample engine_grep(const TextData& text, const Plan& plan) {
  return run_text(text, plan, [](const sluice::DStream<std::string_view>& lines) {
    return lines
        .filter([](std::string_view line) {
          return ::memmem(line.data(), line.size(), TextData::needle.data(), TextData::needle.size()) != nullptr;
        })
        .count();
  });
}

Sample engine_word_count(const TextData& text, const Plan& plan) {
  return run_text(text, plan, [](const sluice::DStream<std::string_view>& lines) {
    return words_of(lines).reduce_by_key(std::plus{}).count();
  });
}

Sample engine_window(const TextData& text, const Plan& plan, std::size_t window) {
  return run_text(text, plan, [window](const sluice::DStream<std::string_view>& lines) {
    return words_of(lines)
        .reduce_by_key_and_window(std::plus{}, std::minus{},
                                  {.length = static_cast<std::int64_t>(window) * 1ms, .slide = 1ms})
        .name("window")
        .count();
  });
}

Sample engine_state(const EventData& events, const Plan& plan, bool all) {
  return run_events(events, plan, [all](const sluice::DStream<Event>& input) {
    const auto sums = input.map([](const Event& event) { return std::pair{event.key, event.value}; })
                          .update_state_by_key(
                              [](std::span<const std::int64_t> values, std::optional<std::int64_t> sum) {
                                for (const std::int64_t value : values) sum = sum.value_or(0) + value;
                                return sum;
                              },
                              {.idle_keeps_state = !all})
                          .name("sums");
    return all ? sums.count() : sums.changes().count();
  });
}

double empty_batch_cpu_us(std::size_t batches, bool durable) {
  constexpr std::size_t warm = 50;
  const Scratch scratch;
  SmallWordCount program(10ms, durable ? scratch.path() : "");
  std::size_t ended = 0;
  double cpu = 0;
  program.stream.run([&](const sluice::BatchInfo&) {
    if (++ended == warm) cpu = BatchTimer::cpu_seconds();
    return ended < warm + batches;
  });
  return (BatchTimer::cpu_seconds() - cpu) / static_cast<double>(batches) * 1e6;
}

SteadyResult steady_milliseconds(std::size_t records, std::size_t batches) {
  SmallWordCount program(1ms);
  auto text = std::make_shared<std::string>();
  for (std::size_t i = 0; i < records; ++i) *text += "word" + std::to_string(i) + "\n";
  for (std::size_t i = 0; i < batches; ++i) program.push(text);
  std::vector<double> delays_ms;
  SteadyResult result;
  const double cpu = BatchTimer::cpu_seconds();
  const auto begin = std::chrono::steady_clock::now();
  std::int64_t words = 0;
  program.stream.run([&](const sluice::BatchInfo& batch) {
    delays_ms.push_back(std::chrono::duration<double, std::milli>(*batch.total_delay()).count());
    if (program.words() != words + static_cast<std::int64_t>(records)) ++result.merged_batches;
    words = program.words();
    return delays_ms.size() < batches;
  });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result.cores = (BatchTimer::cpu_seconds() - cpu) / result.seconds;
  result.batches = delays_ms.size();
  const auto sixth = static_cast<std::ptrdiff_t>(delays_ms.size() / 6);
  result.first_delay_ms = median(std::vector<double>(delays_ms.begin(), delays_ms.begin() + sixth));
  result.last_delay_ms = median(std::vector<double>(delays_ms.end() - sixth, delays_ms.end()));
  return result;
}

void run_first_batch() {
  SmallWordCount program(10ms);
  program.push(std::make_shared<const std::string>("to be or not to be\n"));
  program.stream.run([](const sluice::BatchInfo&) { return false; });
}

}  // namespace bench
