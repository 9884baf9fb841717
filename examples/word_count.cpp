// Counts the words that come from a TCP server: in each batch of a second, and over the last 30 seconds.
//
//     nc -lk 127.0.0.1 7777                 # one terminal: type here
//     word_count 127.0.0.1 7777             # another
//
// Shows: a receiver, flat_map and reduce_by_key, a window that adds what enters and subtracts what leaves, printing,
// and an end by Ctrl-C that loses nothing. Started again, it goes on with the window as it was.
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string_view>
#include <utility>

#include "sluice/sluice.h"

using namespace std::chrono_literals;

namespace {

sluice::StreamingContext count_words(const char* host, std::uint16_t port) {
  // The receiver takes a core; "local[2]" leaves one for the tasks. --sluice.master=local[8] overrules it.
  const sluice::Context ctx({.app = "word_count", .master = "local[2]"});
  // A window with an inverse keeps state, which needs a directory: --sluice.checkpoint=DIR overrules this one.
  const sluice::StreamingContext ssc(ctx, {.batch = 1s, .checkpoint = "/tmp/word_count-checkpoint"});

  const auto words = ssc.socket_text_stream(host, port).flat_map(sluice::split(' ')).map([](std::string_view word) {
    return std::pair{word, 1L};
  });
  words.reduce_by_key(std::plus{}).print();
  words.reduce_by_key_and_window(std::plus{}, std::minus{}, {.length = 30s, .slide = 5s})
      .name("words of 30 s")
      .foreach_rdd([](const sluice::Rdd<std::pair<std::string_view, long>>& counts) {
        // The outputs of a batch take turns while they wait for records: ask first, then print.
        const auto top = counts.top(10, sluice::by_value);
        std::printf("The ten most frequent words of the last 30 seconds:\n");
        for (const auto& [word, count] : top) {
          std::printf("%8ld  %.*s\n", count, static_cast<int>(word.size()), word.data());
        }
        std::fflush(stdout);
      });

  return ssc;
}

}  // namespace

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  std::uint16_t port = 0;
  const std::string_view port_text = argc == 3 ? argv[2] : "";
  std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (port == 0) {
    const bool help = argc == 2 && std::string_view(argv[1]) == "--help";
    std::fprintf(help ? stdout : stderr,
                 "usage: word_count HOST PORT\n"
                 "Counts the words of lines from a TCP server, for example `nc -lk 127.0.0.1 7777`. Ctrl-C ends it.\n");
    return help ? 0 : 2;
  }
  // Starts it; at Ctrl-C what has come is still counted.
  return sluice::supervise([&] { return count_words(argv[1], port); });
}
