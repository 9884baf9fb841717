// What a run needs around the stream: threads for it and a place for its files.
#pragma once

#include <string>

#include "sluice/runtime/runtime.h"

namespace access_log {

/// "local[*]", or two threads where there is one core: an input that is received (socket, standard input) takes one.
std::string default_master();

/// A new directory below $TMPDIR (or /tmp), removed with all it holds when the object goes.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(sluice::Runtime& runtime);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  sluice::Runtime& runtime_;
  std::string path_;
};

}  // namespace access_log
