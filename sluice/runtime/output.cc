#include "sluice/runtime/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <streambuf>
#include <utility>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/posix.h"

namespace sluice {

void Lines::add(std::string_view piece, const std::function<void(std::string_view)>& line) {
  while (!piece.empty()) {
    const std::size_t end = piece.find('\n');
    const bool ends = end != std::string_view::npos;
    std::string_view part = piece.substr(0, end);
    piece.remove_prefix(part.size() + (ends ? 1 : 0));
    while (begun_.size() + part.size() > line_bytes_max) {
      const std::size_t taken = line_bytes_max - begun_.size();
      begun_ += part.substr(0, taken);
      part.remove_prefix(taken);
      finish(line);
    }
    begun_ += part;
    if (!ends) continue;
    line(begun_);
    begun_.clear();
  }
}

void Lines::finish(const std::function<void(std::string_view)>& line) {
  if (begun_.empty()) return;
  line(begun_);
  begun_.clear();
}

namespace {

using Copy = std::function<void(OutputStream, std::string_view)>;

/// A stream that is in the place of `stdout` or `stderr`. Never destroyed: the C library flushes it at the end.
struct Copied {
  OutputStream stream;
  Copy copy;

  static ssize_t write(void* cookie, const char* bytes, std::size_t size) {
    const Copied& self = *static_cast<const Copied*>(cookie);
    const int to = self.stream == OutputStream::standard_output ? STDOUT_FILENO : STDERR_FILENO;
    for (std::size_t done = 0; done < size;) {
      const ssize_t n = ::write(to, bytes + done, size - done);
      if (n < 0 && errno == EINTR) continue;
      // Nobody takes it there; the copy is then all that there is.
      if (n < 0) break;
      done += static_cast<std::size_t>(n);
    }
    self.copy(self.stream, {bytes, size});
    return static_cast<ssize_t>(size);
  }
};

/// C++ streams over a C stream, unbuffered, as the library's own are: the two may be mixed.
class OverFile : public std::streambuf {
 public:
  explicit OverFile(std::FILE* file) : file_(file) {}

 protected:
  int_type overflow(int_type c) override {
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    return std::fputc(c, file_);
  }
  std::streamsize xsputn(const char* bytes, std::streamsize size) override {
    return static_cast<std::streamsize>(std::fwrite(bytes, 1, static_cast<std::size_t>(size), file_));
  }
  int sync() override { return std::fflush(file_); }

 private:
  std::FILE* const file_;
};

std::FILE* open_copied(OutputStream stream, const Copy& copy, int buffering) {
  cookie_io_functions_t functions{};
  functions.write = Copied::write;
  std::FILE* const file = ::fopencookie(new Copied{stream, copy}, "w", functions);
  if (file == nullptr) {
    throw Error(Code::process_failed, {.why = "a copy of what is printed: " + detail::errno_text(errno)});
  }
  std::setvbuf(file, nullptr, buffering, BUFSIZ);
  return file;
}

}  // namespace

void copy_output(const Copy& copy) {
  std::FILE* const out = open_copied(OutputStream::standard_output, copy, _IOLBF);
  std::FILE* const error = open_copied(OutputStream::standard_error, copy, _IONBF);
  std::fflush(stdout);
  stdout = out;
  stderr = error;
  std::cout.rdbuf(new OverFile(out));
  std::cerr.rdbuf(new OverFile(error));
  std::clog.rdbuf(new OverFile(error));
}

}  // namespace sluice
