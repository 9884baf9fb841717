#include "sluice/api/rolling_files.h"

#include <limits>

#include "sluice/api/rolling_directory.h"
#include "sluice/runtime/checksum.h"
#include "sluice/stream/framed.h"

namespace sluice {
namespace detail {
namespace {

constexpr std::uint64_t file_bytes_max = std::uint64_t{1} << 40;

}  // namespace

RollingOutput::RollingOutput(std::string directory, RollingFilesOptions options, std::string kind)
    : path_(std::move(directory)) {
  const auto refuse = [this](const char* why) {
    throw Error(Code::bad_argument, {.why = "rolling files in \"" + path_ + "\": " + why});
  };
  if (path_.empty()) refuse("the directory has no name");
  if (options.bytes == 0) refuse("bytes must be more than 0");
  if (options.age <= Duration{}) refuse("age must be more than 0");
  if (options.suffix.find('/') != std::string::npos) refuse("suffix must not contain '/'");
  if (!options.suffix.empty() && options.suffix[0] >= '0' && options.suffix[0] <= '9') {
    refuse("suffix must not begin with a digit");
  }
  directory_ = std::make_unique<RollingDirectory>(RollingDirectory::Options{.path = path_,
                                                                            .bytes = options.bytes,
                                                                            .age = options.age,
                                                                            .suffix = std::move(options.suffix),
                                                                            .kind = std::move(kind)});
}

RollingOutput::~RollingOutput() = default;

void RollingOutput::start(const SinkStart& start) { directory_->start(start); }
std::string RollingOutput::commit(const std::vector<std::string>& bytes) { return directory_->commit(bytes); }
void RollingOutput::close() { directory_->close(); }

void append_record_frame(std::string_view content, std::string& to) {
  if (content.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(Code::over_limit,
                {.why = "a record has " + std::to_string(content.size()) + " bytes; at most 4 GiB can be written"});
  }
  Encoder out;
  out.u32(static_cast<std::uint32_t>(content.size()));
  out.u32(crc32c(content));
  to.append(out.view());
  to.append(content);
}

std::string rolling_kind_of_records(const std::string& schema) { return "records " + schema; }

void read_record_files(const std::string& directory, const std::string& schema, FileSystem& files,
                       const std::function<void(std::string_view)>& f) {
  const RollingManifest manifest = read_rolling_manifest(files, directory);
  if (manifest.number != 0 && manifest.kind != rolling_kind_of_records(schema)) {
    throw Error(Code::bad_argument,
                {.why = directory + " has files of " + manifest.kind + ", not of " + rolling_kind_of_records(schema)});
  }
  for (const RollingEntry& entry : manifest.files) {
    std::string path = rolling_file_path(files, directory, entry);
    // It may get its name between two calls.
    if (!files.stat(path).has_value()) path = rolling_file_path(files, directory, entry);
    const std::string bytes = read_file(files, path, file_bytes_max);
    naming_file(path, [&] {
      if (bytes.size() != entry.bytes || crc32c(bytes) != entry.checksum) {
        throw Error(Code::corrupt_data,
                    {.why = "it is not what was written: " + std::to_string(bytes.size()) + " bytes, of " +
                            std::to_string(entry.bytes) + ", or its checksum is wrong"});
      }
      Decoder in(bytes);
      while (in.remaining() > 0) {
        const std::uint32_t size = in.u32();
        const std::uint32_t checksum = in.u32();
        const std::string_view content = in.bytes(size);
        if (crc32c(content) != checksum) {
          throw Error(Code::corrupt_data, {.why = "the checksum of the record that ends at byte " +
                                                  std::to_string(in.position()) + " is wrong"});
        }
        f(content);
      }
    });
  }
}

}  // namespace detail

std::vector<RollingFile> list_rolling_files(const std::string& directory, FileSystem& files) {
  std::vector<RollingFile> all;
  for (const detail::RollingEntry& entry : detail::read_rolling_manifest(files, directory).files) {
    all.push_back({detail::rolling_file_path(files, directory, entry), entry.bytes, entry.checksum});
  }
  return all;
}

}  // namespace sluice
