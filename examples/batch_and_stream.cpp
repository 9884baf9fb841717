// test: batch_and_stream.cpp
// One function for a batch and a stream: the longest words of a file, then of the lines appended to it.
//
//     batch_and_stream notes.txt            # prints the words of the file
//     batch_and_stream notes.txt --follow   # goes on with what is appended; Ctrl-C ends it
//     echo "some antidisestablishmentarianism" >> notes.txt
//
// Shows: a function template over Rdd and DStream, an action on a batch, an output of a stream.
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "sluice/runtime/process.h"
#include "sluice/sluice.h"

using namespace std::chrono_literals;

namespace {

using WordCount = std::pair<std::string_view, long>;

// `Many` is sluice::Rdd or sluice::DStream: their operators have the same names and meaning.
template <template <class> class Many>
Many<WordCount> count_words(const Many<std::string_view>& lines) {
  return lines.flat_map(sluice::split(' '))
      .map([](std::string_view word) { return WordCount{word, 1}; })
      .reduce_by_key(std::plus{});
}

void print_longest(std::string_view head, const sluice::Rdd<WordCount>& counts) {
  // Longest first, words of one length by their letters: an order that leaves nothing to chance.
  const auto longer = [](const WordCount& a, const WordCount& b) {
    return a.first.size() != b.first.size() ? a.first.size() > b.first.size() : a.first < b.first;
  };
  const auto longest = counts.top(5, longer);  // Records<WordCount>: the words are owned by it
  if (!longest.empty()) std::printf("%.*s\n", static_cast<int>(head.size()), head.data());
  for (const auto& [word, count] : longest) {
    std::printf("%6ld  %.*s\n", count, static_cast<int>(word.size()), word.data());
  }
  std::fflush(stdout);
}

void run(const std::string& path, bool follow) {
  const sluice::Context ctx({.app = "batch_and_stream"});
  print_longest(path, count_words(ctx.text_file(path)));
  if (!follow) return;

  const sluice::StreamingContext ssc(ctx, {.batch = 1s});
  count_words(ssc.follow_file(path)).foreach_rdd([](const sluice::Rdd<WordCount>& counts) {
    print_longest("appended:", counts);
  });
  const sluice::SignalWatch watch([&ssc](int) { ssc.request_stop(); });
  ssc.start();
  ssc.await_termination();
}

}  // namespace

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  const std::string_view first = argc > 1 ? argv[1] : "";
  const bool follow = argc == 3 && std::string_view(argv[2]) == "--follow";
  if (first.empty() || first == "--help" || (argc != 2 && !follow)) {
    std::fprintf(first == "--help" ? stdout : stderr,
                 "usage: batch_and_stream FILE [--follow]\n"
                 "Prints the longest words of a text file, and with --follow of each second's new lines.\n");
    return first == "--help" ? 0 : 2;
  }
  try {
    run(argv[1], follow);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "batch_and_stream: %s\n", error.what());
    return 1;
  }
}
