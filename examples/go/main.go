// Writes a video of a portrait that speaks a WAV file (16 bits, one channel).
//
//	go run . HOST:PORT PORTRAIT SPEECH.wav OUT.mp4
//
// README.md beside this file says how the package avatarv1 is generated.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	avatarv1 "example.com/generate/live_avatar/v1"
)

const (
	pieceSeconds  = 0.5
	credits       = 64
	createTimeout = 60 * time.Second
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: generate HOST:PORT PORTRAIT SPEECH.wav OUT.mp4")
	}
	if err := makeVideo(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func makeVideo(gateway, portrait, speech, out string) error {
	image, err := os.ReadFile(portrait)
	if err != nil {
		return err
	}
	rate, samples, err := readWav(speech)
	if err != nil {
		return err
	}
	movie, err := os.Create(out)
	if err != nil {
		return err
	}
	defer movie.Close()
	// A gateway that is frozen is noticed by pings alone.
	pings := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second})
	connection, err := grpc.Dial(gateway, grpc.WithInsecure(), pings)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := avatarv1.NewAvatarServiceClient(connection)
	token, err := createSession(client, image, rate)
	if err != nil {
		return err
	}
	return talk(client, token, rate, samples, movie)
}

func createSession(client avatarv1.AvatarServiceClient, image []byte, rate uint32) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), createTimeout)
	defer cancel()
	created, err := client.CreateSession(ctx, &avatarv1.CreateSessionRequest{
		RequestId:      fmt.Sprint("video-", time.Now().UnixNano()),
		ReferenceImage: image,
		Config: &avatarv1.SessionConfig{
			Audio: &avatarv1.AudioFormat{
				Encoding: avatarv1.AudioFormat_ENCODING_PCM_S16LE, SampleRateHz: rate, ChannelCount: 1,
			},
			Video: &avatarv1.VideoFormat{Encoding: avatarv1.VideoFormat_ENCODING_FMP4},
		},
	})
	return created.GetSessionToken(), err
}

// talk sends from a goroutine of its own; it alone writes to the stream, credits included.
func talk(client avatarv1.AvatarServiceClient, token string, rate uint32, samples []byte, movie io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := client.StreamAvatar(ctx)
	if err != nil {
		return err
	}
	units := make(chan struct{}, credits)
	go send(ctx, stream, token, rate, samples, units)
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if unit := response.GetVideoUnit(); unit != nil {
			if _, err := movie.Write(unit.Data); err != nil {
				return err
			}
			units <- struct{}{}
		}
	}
}

// send gives up where a write fails: Recv then says why.
func send(
	ctx context.Context, stream avatarv1.AvatarService_StreamAvatarClient, token string, rate uint32, samples []byte,
	units <-chan struct{},
) {
	sequence := uint64(0)
	write := func(request *avatarv1.StreamAvatarRequest) bool {
		sequence++
		request.ClientSequence = sequence
		return stream.Send(request) == nil
	}
	open := &avatarv1.StreamAvatarRequest_Open{SessionToken: token, InitialVideoCredits: credits}
	if !write(&avatarv1.StreamAvatarRequest{Payload: &avatarv1.StreamAvatarRequest_Open_{Open: open}}) {
		return
	}
	piece := 2 * int(pieceSeconds*float64(rate))
	for first := 0; first < len(samples); first += piece {
		chunk := &avatarv1.StreamAvatarRequest_AudioChunk{
			Data: samples[first:min(first+piece, len(samples))], SampleOffset: uint64(first / 2),
		}
		if !write(&avatarv1.StreamAvatarRequest{Payload: &avatarv1.StreamAvatarRequest_AudioChunk_{AudioChunk: chunk}}) {
			return
		}
	}
	write(&avatarv1.StreamAvatarRequest{
		Payload: &avatarv1.StreamAvatarRequest_Finish_{Finish: &avatarv1.StreamAvatarRequest_Finish{}},
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-units:
			credit := &avatarv1.StreamAvatarRequest_Credit{VideoUnits: 1}
			if !write(&avatarv1.StreamAvatarRequest{Payload: &avatarv1.StreamAvatarRequest_Credit_{Credit: credit}}) {
				return
			}
		}
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func readWav(path string) (uint32, []byte, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, err
	}
	rate := uint32(0)
	for at := 12; at+8 <= len(file); {
		size := int(binary.LittleEndian.Uint32(file[at+4:]))
		switch string(file[at : at+4]) {
		case "fmt ":
			rate = binary.LittleEndian.Uint32(file[at+12:])
		case "data":
			return rate, file[at+8 : min(at+8+size, len(file))], nil
		}
		at += 8 + size + size%2
	}
	return 0, nil, fmt.Errorf("%s has no samples", path)
}
