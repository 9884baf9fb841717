// Files that grow over many batches and are finished when they are large or old enough.
//
//     lines.save_to(sluice::rolling_files("/data/lines", {.bytes = 128 << 20, .age = 10min})).name("lines");
//
// Each record is in exactly one finished file, whatever was killed when (contract: transactional). While a file grows
// its name begins with '.'; it is finished by being added to the directory's manifest and renamed, in this order. So
// `ls` and `*` see whole files only, and the manifest says which there are. With a checkpoint directory a restart goes
// on with the file that was growing: with a copy of it up to what the journal has noted.
//
// Two drivers: taking over a directory is a compare and set on the number of its manifest. From then on an older driver
// cannot finish a file any more, and what it still writes goes to a file that has lost its name; its next batch ends
// with SLU-209. What a file system cannot do is stop a write that is under way: so in the moment of the takeover bytes
// of the older driver may still be written, on disk and in vain. This needs a file system whose rename is atomic for
// all machines that mount it: local ones and NFS are, object stores behind FUSE mostly are not.
//
// On purpose different from Spark, whose DStreams write a directory for each batch (save_as_text_files).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "sluice/api/sink.h"
#include "sluice/core/codec.h"
#include "sluice/runtime/runtime.h"

namespace sluice {

/// See the head of this file.
struct RollingFilesOptions {
  /// A file that has this size is finished before the next batch, so it may be larger by a batch.
  std::uint64_t bytes = std::uint64_t{128} << 20;
  /// A file that is so old is finished with the next batch, an empty one too; counted from its first record, over
  /// restarts. Shorter ages show data sooner, in more and smaller files.
  Duration age = std::chrono::minutes(10);
  /// End of the names of finished files; without '/', and not beginning with a digit.
  std::string suffix{};
};

/// A finished file.
struct RollingFile {
  std::string path;
  std::uint64_t bytes = 0;
  /// CRC32C of its bytes.
  std::uint32_t checksum = 0;
};

namespace detail {

/// The sink of encoded records; `bytes` are what writers gave.
class RollingOutput {
 public:
  RollingOutput(std::string directory, RollingFilesOptions options, std::string kind);
  ~RollingOutput();
  void start(const SinkStart& start);
  std::string commit(const std::vector<std::string>& bytes);
  void close();
  const std::string& directory() const { return path_; }

 private:
  const std::string path_;
  std::unique_ptr<class RollingDirectory> directory_;
};

/// A line each.
struct AsTextLine {
  template <class T>
  void operator()(const T& record, std::string& to) const {
    to.append(record);
    to.push_back('\n');
  }
};
/// A frame each: see docs/formats.md, "Rolling files".
void append_record_frame(std::string_view content, std::string& to);
struct AsRecordFrame {
  template <class T>
  void operator()(const T& record, std::string& to) const {
    Encoder out;
    encode(record, out);
    append_record_frame(out.view(), to);
  }
};

template <class T, class Form>
class RollingWriters : public SinkWriters<T> {
  class Writer : public SinkWriter<T> {
   public:
    void write(std::span<const T> records) override {
      for (const T& record : records) Form{}(record, bytes_);
    }
    std::string finish() override { return std::move(bytes_); }

   private:
    std::string bytes_;
  };

 public:
  std::unique_ptr<SinkWriter<T>> open(const SinkPartition&) const override { return std::make_unique<Writer>(); }
};

template <class T, class Form>
class RollingSink : public Sink<T> {
 public:
  RollingSink(std::string directory, RollingFilesOptions options, std::string kind)
      : output_(std::move(directory), std::move(options), std::move(kind)) {}
  Contract contract() const override { return Contract::transactional; }
  std::string argument() const override { return output_.directory(); }
  void start(const SinkStart& start) override { output_.start(start); }
  Shipped<SinkWriters<T>> writers() const override { return ship_writers<T, RollingWriters<T, Form>>(); }
  std::string commit(const SinkBatch&, const std::vector<std::string>& parts) override { return output_.commit(parts); }
  void close() override { output_.close(); }

 private:
  RollingOutput output_;
};

/// Calls f for the content of each record of the directory's finished files.
void read_record_files(const std::string& directory, const std::string& schema, FileSystem& files,
                       const std::function<void(std::string_view)>& f);
std::string rolling_kind_of_records(const std::string& schema);

}  // namespace detail

/// A sink of text, one record a line, in the order of batches and partitions; T is std::string or std::string_view.
/// A record that holds line ends becomes several lines.
///
/// Guarantee: see the head of this file. Without a checkpoint directory what a killed program has not finished is gone.
/// Empty batches write nothing. A graceful stop finishes the open file. Files may be removed, when they are finished,
/// by anybody: the manifest forgets them at the next start.
/// Cost: a batch's bytes go through the driver, one write and one sync a batch that has records. Finishing a file
/// writes the manifest, O(files there). A start copies the file that grows and lists the directory.
/// Errors: here SLU-109 for an option out of range. At start(): SLU-109 when the directory is another output's,
/// SLU-209, SLU-301 when what the journal has noted is not there. Later: SLU-401, SLU-209; a batch that failed leaves
/// nothing.
template <class T = std::string>
std::shared_ptr<Sink<T>> rolling_files(std::string directory, RollingFilesOptions options = {.suffix = ".txt"}) {
  static_assert(std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>,
                "rolling_files writes text: map records to std::string first, or use rolling_record_files");
  return std::make_shared<detail::RollingSink<T, detail::AsTextLine>>(std::move(directory), std::move(options), "text");
}

/// A sink of records of any type with a codec, each framed with length and checksum: `read_rolling_files` gives them
/// back. All else as rolling_files. The type's schema is kept in the manifest, so another type is refused (SLU-109).
template <class T>
std::shared_ptr<Sink<T>> rolling_record_files(std::string directory, RollingFilesOptions options = {}) {
  return std::make_shared<detail::RollingSink<T, detail::AsRecordFrame>>(
      std::move(directory), std::move(options), detail::rolling_kind_of_records(schema_of<T>()));
}

/// The finished files of a directory, in the order in which they were finished; none when nothing was ever written.
/// While a file is being finished its path may be the hidden one, which is gone a moment later: then ask again.
/// Errors: SLU-301 to SLU-303 for the manifest, SLU-401.
std::vector<RollingFile> list_rolling_files(const std::string& directory, FileSystem& files = system_runtime().files());

/// The records that `rolling_record_files<T>` has written to finished files, in order. T owns its bytes.
/// Errors: SLU-109 when the files hold something else, SLU-301 and SLU-302 for a damaged file, naming it, SLU-411 for a
/// file that is gone, SLU-401. Cost: one file at a time in memory, and all records.
template <class T>
std::vector<T> read_rolling_files(const std::string& directory, FileSystem& files = system_runtime().files()) {
  static_assert(!has_views_v<T>, "a record that is read must own its bytes: std::string, not std::string_view");
  std::vector<T> records;
  detail::read_record_files(directory, schema_of<T>(), files, [&records](std::string_view bytes) {
    Decoder in(bytes);
    records.push_back(decode<T>(in));
    in.expect_end();
  });
  return records;
}

}  // namespace sluice
