// The workloads as programs of sluice, written with its public API alone. Results are those of the loops (loops.h).
#pragma once

#include "benchmarks/data.h"
#include "benchmarks/sample.h"

namespace bench {

/// W1: filter, count.
Sample engine_grep(const TextData& text, const Plan& plan);
/// W2: flat_map(split), map, reduce_by_key, count.
Sample engine_word_count(const TextData& text, const Plan& plan);
/// W3: the same with reduce_by_key_and_window and an inverse.
Sample engine_window(const TextData& text, const Plan& plan, std::size_t window);
/// W4: update_state_by_key; the count of all keys, or of those that changed when idle keys keep their state.
Sample engine_state(const EventData& events, const Plan& plan, bool all);

/// What a batch without records costs: CPU time of this process a batch, in microseconds, W2 at a 10 ms interval.
double empty_batch_cpu_us(std::size_t batches, bool durable);

/// A batch of `records` words every millisecond.
struct SteadyResult {
  double seconds = 0;
  std::size_t batches = 0;
  /// Batches that ran without their records, because these were in another's.
  std::size_t merged_batches = 0;
  /// Median of the total delay in the first and in the last sixth of the run, in milliseconds.
  double first_delay_ms = 0;
  double last_delay_ms = 0;
  double cores = 0;  // used on average
};
SteadyResult steady_milliseconds(std::size_t records, std::size_t batches);

/// Runs a word count at a 10 ms interval until its first batch is done. For a process of its own.
void run_first_batch();

}  // namespace bench
