#include "benchmarks/engine.h"

#include <memory>
#include <string>
#include <vector>

#include "benchmarks/stream.h"

namespace bench {
namespace {

using namespace std::chrono_literals;

template <class Counted>
Sample run_text(const TextData& text, const Plan& plan, const Counted& counted) {
  return run_batches<std::string_view>(
      {.master = threads(plan.threads)}, plan,
      [&text](const sluice::Context& context, std::size_t batch) {
        std::vector<sluice::MemoryBlock> blocks;
        add_blocks(text, batch, blocks);
        return context.text_blocks(std::move(blocks));
      },
      counted);
}

template <class Counted>
Sample run_events(const EventData& events, const Plan& plan, const Counted& counted) {
  return run_batches<Event>(
      {.master = threads(plan.threads)}, plan,
      [&](const sluice::Context& context, std::size_t batch) {
        std::vector<sluice::MemoryBlock> blocks;
        add_blocks(events, batch, plan.threads, blocks);
        return context.record_blocks<Event>(std::move(blocks));
      },
      counted);
}

}  // namespace

Sample engine_grep(const TextData& text, const Plan& plan) { return run_text(text, plan, grep); }

Sample engine_word_count(const TextData& text, const Plan& plan) { return run_text(text, plan, word_count); }

Sample engine_window(const TextData& text, const Plan& plan, std::size_t window) {
  return run_text(text, plan, [window](const sluice::DStream<std::string_view>& lines) {
    return window_count(lines, {.length = static_cast<std::int64_t>(window) * 1ms, .slide = 1ms});
  });
}

Sample engine_state(const EventData& events, const Plan& plan, bool all) {
  return run_events(events, plan, [all](const sluice::DStream<Event>& input) {
    const auto sums = sums_of(input, all);
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
  SmallWordCount program(1ms, {});
  const auto text = SmallWordCount::lines(records);
  for (std::size_t i = 0; i < batches; ++i) program.push(text);
  std::vector<double> delays_ms;
  SteadyResult result;
  const double cpu = BatchTimer::cpu_seconds();
  const auto begin = std::chrono::steady_clock::now();
  std::int64_t words = 0;
  program.stream.run([&](const sluice::BatchInfo& batch) {
    delays_ms.push_back(std::chrono::duration<double, std::milli>(*batch.total_delay()).count());
    if (program.words != words + static_cast<std::int64_t>(records)) ++result.merged_batches;
    words = program.words;
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
  SmallWordCount program(10ms, {});
  program.push(std::make_shared<const std::string>("to be or not to be\n"));
  program.stream.run([](const sluice::BatchInfo&) { return false; });
}

}  // namespace bench
