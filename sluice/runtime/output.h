// What processes print: pieces put together to lines, and a copy of what this process prints.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace sluice {

/// Puts the pieces of one stream of text together to lines. Threads: one.
class Lines {
 public:
  /// Longer lines come in several parts. Memory is bounded so, whatever is printed.
  static constexpr std::size_t line_bytes_max = 8 << 10;

  /// Calls `line` for each line that ends with this piece, without its "\n".
  void add(std::string_view piece, const std::function<void(std::string_view)>& line);
  /// The same for a last line that has no end.
  void finish(const std::function<void(std::string_view)>& line);

 private:
  std::string begun_;
};

enum class OutputStream { standard_output, standard_error };

/// Hands a copy of all that this process prints from now on to `copy`, in pieces: what goes through `stdout`, `stderr`,
/// `std::cout`, `std::cerr` and `std::clog`. Each piece has been written to where it went before when `copy` gets it,
/// and the descriptors are what they were. So nothing is lost of a process that crashes, and what is written to the
/// descriptors themselves, such as a sanitizer's report, is not touched and not copied. Standard output is written
/// line by line.
///
/// `copy` is called on the thread that prints, under the stream's lock: it must not print, nor wait, nor throw.
/// Call once, before there are other threads. Errors: SLU-413.
void copy_output(const std::function<void(OutputStream, std::string_view)>& copy);

}  // namespace sluice
