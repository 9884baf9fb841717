// The workloads as hand-written loops: what the machine can do when nobody asks for more than the one program.
//
// Threads work in lock step, batch by batch, each on its slice. Keys lie in 16 bytes inside open-addressing tables that
// are made for nothing else: words of more than 16 letters, removal, recovery, order do not exist here.
#pragma once

#include "benchmarks/data.h"
#include "benchmarks/sample.h"

namespace bench {

/// W1: lines that hold the needle; memchr to the end of the line, memmem in it. Result: their number.
Sample loop_grep(const TextData& text, const Plan& plan);
/// W2: how often each word occurs in each batch. Result: different words, summed over the batches.
Sample loop_word_count(const TextData& text, const Plan& plan);
/// W3: the same over the last `window` batches: what enters is added, what leaves is subtracted. Result: different
/// words in the window, summed over the batches.
Sample loop_window(const TextData& text, const Plan& plan, std::size_t window);
/// W4: running sum by key. With `all` the whole state is walked in each batch, else only its keys are touched. Result:
/// keys of the state, or of the batch, summed over the batches.
Sample loop_state(const EventData& events, const Plan& plan, bool all);

}  // namespace bench
